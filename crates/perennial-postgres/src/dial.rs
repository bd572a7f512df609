//! Dials the hosts of a configuration, each of their addresses, and judges what failed.
//!
//! The driver's own loop keeps the last failure only. With `host=pg1,pg2`, a second host that is down
//! would hide that the first one refused the certificate.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use perennial::with_causes;
use rand::seq::SliceRandom;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::{Client, Config, Connection, Socket};

use crate::error::{ConnectError, FailureClass, NO_ANSWER, classify};
use crate::tls::{Presenting, RustlsStream, connector};

/// A client with the connection that drives it, and the server they lead to.
pub(crate) struct LoggedIn {
    pub(crate) client: Client,
    pub(crate) connection: Connection<Socket, RustlsStream>,
    pub(crate) server: String,
}

/// Logs in at the first address that accepts this certificate.
///
/// `timeout` is the time of the whole connect, of which what is left until `end` is for this.
///
/// # Errors
/// The failure that says most about the certificate, with the others in its text.
pub(crate) async fn log_in(
    config: &Config,
    presenting: Presenting<'_>,
    end: Instant,
    timeout: Duration,
) -> Result<LoggedIn, ConnectError> {
    let is_random = is_random(config);
    let look_up = |target| look_up(target, is_random);
    // A connect that is given up after its share of the time is dropped, which closes its socket.
    let connect = |target: Target| async move {
        let one = target.config(config);
        let (client, connection) = one.connect(connector(presenting)).await?;
        let server = target.to_string();
        Ok(LoggedIn {
            client,
            connection,
            server,
        })
    };
    let dialled = dial(Target::all(config), end, look_up, connect).await;
    dialled.map_err(|failed| judge(failed, presenting.snapshot.generation(), timeout))
}

/// One address to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The name that the server's certificate must have.
    pub(crate) host: String,
    /// `None` until the name is looked up, and if that has failed.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

/// Why one address, or one name that was not looked up in time, gave no connection.
#[derive(Debug)]
pub(crate) struct Failed<E> {
    pub(crate) target: Target,
    pub(crate) problem: Problem<E>,
}

#[derive(Debug)]
pub(crate) enum Problem<E> {
    Error(E),
    /// Its share of the time passed.
    NoAnswer(Duration),
}

impl Target {
    /// The hosts of these settings, each with its own port and address, in the order to dial them.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let (addresses, ports) = (config.get_hostaddrs(), config.get_ports());
        let target = |(index, host): (usize, &Host)| {
            let Host::Tcp(host) = host else {
                // Refused at build.
                return None;
            };
            Some(Self {
                host: host.clone(),
                address: addresses.get(index).copied(),
                port: *ports.get(index).or_else(|| ports.first()).unwrap_or(&5432),
            })
        };
        let hosts = config.get_hosts().iter().enumerate();
        let mut targets = hosts.filter_map(target).collect::<Vec<_>>();
        if is_random(config) {
            targets.shuffle(&mut rand::rng());
        }
        targets
    }

    /// These settings for this address alone.
    ///
    /// Without an address, the driver looks the name up again: its error then says why that fails.
    pub(crate) fn config(&self, all: &Config) -> Config {
        let mut one = Config::new();
        one.host(&self.host).port(self.port);
        if let Some(address) = self.address {
            one.hostaddr(address);
        }
        // The driver has no setter that clears the hosts, so everything else is copied.
        if let Some(user) = all.get_user() {
            one.user(user);
        }
        if let Some(password) = all.get_password() {
            one.password(password);
        }
        if let Some(dbname) = all.get_dbname() {
            one.dbname(dbname);
        }
        if let Some(options) = all.get_options() {
            one.options(options);
        }
        if let Some(name) = all.get_application_name() {
            one.application_name(name);
        }
        if let Some(timeout) = all.get_connect_timeout() {
            one.connect_timeout(*timeout);
        }
        if let Some(timeout) = all.get_tcp_user_timeout() {
            one.tcp_user_timeout(*timeout);
        }
        if let Some(interval) = all.get_keepalives_interval() {
            one.keepalives_interval(interval);
        }
        if let Some(retries) = all.get_keepalives_retries() {
            one.keepalives_retries(retries);
        }
        one.keepalives(all.get_keepalives())
            .keepalives_idle(all.get_keepalives_idle())
            .ssl_mode(all.get_ssl_mode())
            .ssl_negotiation(all.get_ssl_negotiation())
            .target_session_attrs(all.get_target_session_attrs())
            .channel_binding(all.get_channel_binding())
            .load_balance_hosts(all.get_load_balance_hosts());
        one
    }
}

/// The host, and the address if the host does not say it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        write!(f, "{host}:{port}")?;
        match self.address {
            Some(address) if address.to_string() != *host => write!(f, " at {address}"),
            _ => Ok(()),
        }
    }
}

/// Whether hosts and addresses are dialled in random order.
pub(crate) fn is_random(config: &Config) -> bool {
    config.get_load_balance_hosts() == LoadBalanceHosts::Random
}

/// The addresses of a name, in the order to dial them.
pub(crate) async fn look_up(target: Target, is_random: bool) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await?;
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    if is_random {
        addresses.shuffle(&mut rand::rng());
    }
    Ok(addresses)
}

/// Connects to the first address that accepts.
///
/// Each gets an equal share of the time that is left, so that one that never answers leaves time for
/// the others.
///
/// # Errors
/// Why each address failed, in the order of dialling.
pub(crate) async fn dial<T, E, L, C>(
    targets: Vec<Target>,
    end: Instant,
    look_up: impl Fn(Target) -> L,
    connect: impl Fn(Target) -> C,
) -> Result<T, Vec<Failed<E>>>
where
    L: Future<Output = io::Result<Vec<IpAddr>>>,
    C: Future<Output = Result<T, E>>,
{
    let mut failed = Vec::new();
    let mut names_left = targets.len();
    for target in targets {
        names_left -= 1;
        let addresses = match target.address {
            Some(address) => vec![Some(address)],
            None => {
                let share = share(end, 1 + names_left);
                match timeout_at(Instant::now() + share, look_up(target.clone())).await {
                    Ok(Ok(found)) if !found.is_empty() => found.into_iter().map(Some).collect(),
                    Ok(_) => vec![None],
                    Err(_elapsed) => {
                        let problem = Problem::NoAnswer(share);
                        failed.push(Failed { target, problem });
                        continue;
                    }
                }
            }
        };
        let count = addresses.len();
        for (index, address) in addresses.into_iter().enumerate() {
            let target = Target {
                address,
                ..target.clone()
            };
            let share = share(end, count - index + names_left);
            let connected = timeout_at(Instant::now() + share, connect(target.clone())).await;
            let problem = match connected {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => Problem::Error(error),
                Err(_elapsed) => Problem::NoAnswer(share),
            };
            failed.push(Failed { target, problem });
        }
    }
    Err(failed)
}

/// The time for the next of so many tries.
fn share(end: Instant, tries: usize) -> Duration {
    let left = end.saturating_duration_since(Instant::now());
    left / u32::try_from(tries).unwrap_or(u32::MAX).max(1)
}

/// Which of several failures decides what happens next; the last of equal ones, `None` for no answer.
///
/// What is known of the certificate counts most: a refusal is renewed or falls back, and waiting does
/// not cure it. Then what may pass soon, so that the connect is tried again.
pub(crate) fn strongest(classes: &[Option<FailureClass>]) -> Option<usize> {
    let strength = |class: Option<FailureClass>| match class {
        Some(FailureClass::CertificateRefused) => 4,
        Some(FailureClass::ServerNotTrusted) => 3,
        Some(class) if class.may_pass() => 2,
        Some(_) => 1,
        None => 0,
    };
    let nth = |(_, class): &(usize, &Option<FailureClass>)| strength(**class);
    let strongest = classes.iter().enumerate().max_by_key(nth);
    strongest.map(|(index, _)| index)
}

/// The strongest of several failures, with the others in its text.
fn judge(
    failed: Vec<Failed<tokio_postgres::Error>>,
    generation: u64,
    timeout: Duration,
) -> ConnectError {
    let class = |failed: &Failed<_>| match &failed.problem {
        Problem::Error(error) => Some(classify(error)),
        Problem::NoAnswer(_) => None,
    };
    let strongest = strongest(&failed.iter().map(class).collect::<Vec<_>>());
    let mut others = Vec::new();
    let mut chosen = ConnectError::TimedOut {
        after: timeout,
        problem: NO_ANSWER,
        last: None,
    };
    for (index, Failed { target, problem }) in failed.into_iter().enumerate() {
        match problem {
            Problem::Error(error) if Some(index) == strongest => {
                chosen = ConnectError::postgres(error, target.to_string(), generation);
            }
            Problem::Error(error) => others.push(format!("{target}: {}", with_causes(&error))),
            Problem::NoAnswer(share) => {
                others.push(format!("{target}: no answer within {share:.1?}"));
            }
        }
    }
    chosen.with_others(others)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    /// What dialling these settings ends with, and what was dialled, each with its share of a minute.
    ///
    /// `db` has the addresses 127.0.0.1 and 127.0.0.2; other names cannot be looked up.
    async fn dialled(
        settings: &str,
        answers: &BTreeMap<&str, Result<(), FailureClass>>,
    ) -> (Result<(), Vec<Failed<FailureClass>>>, Vec<(String, u64)>) {
        let config: Config = settings.parse().unwrap();
        let (began, tried) = (Instant::now(), Mutex::new(Vec::new()));
        let look_up = |target: Target| async move {
            match target.host.as_str() {
                "db" => Ok(vec![address(1), address(2)]),
                "slow" => std::future::pending().await,
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        };
        let connect = |target: Target| {
            let name = target.to_string();
            let at = began.elapsed().as_secs();
            tried.lock().unwrap().push((name.clone(), at));
            async move {
                match answers.get(name.as_str()) {
                    Some(answer) => *answer,
                    None => std::future::pending().await,
                }
            }
        };
        let outcome = dial(Target::all(&config), began + MINUTE, look_up, connect).await;
        (outcome, tried.into_inner().unwrap())
    }

    fn class(failed: &Failed<FailureClass>) -> Option<FailureClass> {
        match failed.problem {
            Problem::Error(class) => Some(class),
            Problem::NoAnswer(_) => None,
        }
    }

    /// Scenario: F1
    #[tokio::test(start_paused = true)]
    async fn refusal_at_one_address_of_a_name_is_kept_though_the_other_is_down() {
        use FailureClass::{CertificateRefused, Unreachable};
        let (one, two) = ("db:5432 at 127.0.0.1", "db:5432 at 127.0.0.2");
        for (refusing, down) in [(one, two), (two, one)] {
            let answers = [
                (refusing, Err(CertificateRefused)),
                (down, Err(Unreachable)),
            ];
            let (outcome, tried) = dialled("host=db", &answers.into()).await;
            let failed = outcome.unwrap_err();
            let classes: Vec<_> = failed.iter().map(class).collect();
            let strongest = strongest(&classes).unwrap();
            assert_eq!(failed[strongest].target.to_string(), refusing);
            assert_eq!(classes[strongest], Some(CertificateRefused));
            assert_eq!(tried, [(one.to_owned(), 0), (two.to_owned(), 0)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_address_that_accepts_ends_the_dialling() {
        let answers = [
            ("db:1 at 127.0.0.1", Err(FailureClass::CertificateRefused)),
            ("db:1 at 127.0.0.2", Ok(())),
        ];
        let (outcome, tried) = dialled("host=db,db port=1,2", &answers.into()).await;
        assert!(outcome.is_ok());
        assert_eq!(tried.len(), 2, "{tried:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn address_that_never_answers_leaves_time_for_the_others() {
        // Three places share a minute: a name that is never found, and two addresses.
        let answers = [("db:2 at 127.0.0.2", Ok(()))];
        let (outcome, tried) = dialled("host=slow,db port=1,2", &answers.into()).await;
        assert!(outcome.is_ok());
        let expected = [("db:2 at 127.0.0.1", 30), ("db:2 at 127.0.0.2", 45)];
        assert_eq!(tried, expected.map(|(name, at)| (name.to_owned(), at)));

        let none = BTreeMap::new();
        let (outcome, _) = dialled("host=a,b hostaddr=127.0.0.3,127.0.0.4 port=1,2", &none).await;
        let failed = outcome.unwrap_err();
        let said = failed.iter().map(|failed| failed.target.to_string());
        assert!(said.eq(["a:1 at 127.0.0.3", "b:2 at 127.0.0.4"]));
        assert!(failed.iter().all(|failed| class(failed).is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn name_that_cannot_be_looked_up_is_left_to_the_driver() {
        let answers = [("gone:5432", Err(FailureClass::Unreachable))];
        let (outcome, _) = dialled("host=gone", &answers.into()).await;
        let failed = outcome.unwrap_err();
        assert_eq!(failed[0].target.address, None);
        assert_eq!(class(&failed[0]), Some(FailureClass::Unreachable));
    }

    #[test]
    fn strongest_failure_is_the_one_about_the_certificate() {
        use FailureClass::*;
        let table: [(&[Option<FailureClass>], Option<usize>); 7] = [
            (&[], None),
            (&[Some(CertificateRefused), Some(Unreachable)], Some(0)),
            (&[Some(Unreachable), Some(CertificateRefused)], Some(1)),
            (&[Some(ServerNotTrusted), Some(CertificateRefused)], Some(1)),
            (&[Some(ServerNotTrusted), Some(NotNow), None], Some(0)),
            (&[Some(NotNow), Some(LoginRefused), None], Some(0)),
            (&[Some(Unreachable), Some(Lost)], Some(1)),
        ];
        for (classes, expected) in table {
            assert_eq!(strongest(classes), expected, "{classes:?}");
        }
    }

    #[test]
    fn settings_for_one_address_keep_everything_else() {
        let settings = "host=db port=5433 user=app password=secret dbname=data options='-c a=b' \
            application_name=test sslmode=require sslnegotiation=direct connect_timeout=3 \
            tcp_user_timeout=4 keepalives=0 keepalives_idle=5 keepalives_interval=6 \
            keepalives_retries=7 target_session_attrs=read-write channel_binding=disable \
            load_balance_hosts=random";
        let mut all: Config = settings.parse().unwrap();
        let [mut target] = <[_; 1]>::try_from(Target::all(&all)).unwrap();
        assert!(target.config(&all) == all);
        target.address = Some(address(1));
        let one = target.config(&all);
        all.hostaddr(address(1));
        assert!(one == all);
        // A setting that a new version of the driver adds must be copied too.
        let known = format!("{all:?}").matches(": ").count();
        assert_eq!(known, 18, "{all:?}");
        let defaults: Config = "host=db port=5432".parse().unwrap();
        let [target] = <[_; 1]>::try_from(Target::all(&defaults)).unwrap();
        assert!(target.config(&defaults) == defaults);
    }

    #[test]
    fn random_order_is_drawn_from_all_hosts() {
        let config: Config = "host=a,b,c port=1,2,3 load_balance_hosts=random"
            .parse()
            .unwrap();
        let mut first = std::collections::BTreeSet::new();
        while first.len() < 3 {
            let targets = Target::all(&config);
            assert_eq!(targets.len(), 3);
            first.insert(targets[0].to_string());
        }
        assert!(first.iter().map(String::as_str).eq(["a:1", "b:2", "c:3"]));
        let config: Config = "host=b,a".parse().unwrap();
        let order = Target::all(&config)
            .into_iter()
            .map(|target| target.to_string());
        assert!(order.eq(["b:5432", "a:5432"]));
    }
}
