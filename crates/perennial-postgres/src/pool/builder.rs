use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use perennial::LiveCert;
use tokio::sync::Notify;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config};

use crate::error::ConfigError;
use crate::pool::dialer::{Dialer, OnConnect, Transport};
use crate::pool::manager::CertConnectionManager;
use crate::pool::rotation::Rotation;
use crate::pool::session::Leaving;
use crate::pool::signals::Signals;
use crate::pool::standing::Standing;
use crate::tls::with_tls;

/// How long a connect may take in all: certificate, TCP, TLS, login and `on_connect`, with every
/// try again while the server cannot be reached.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is quiet before it is pinged.
pub const IDLE_PING: Duration = Duration::from_secs(30);

/// When the kernel begins to probe a silent connection that waits for an answer.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// The wait between two such probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered probes after which the connection counts as dead.
pub const KEEPALIVE_RETRIES: u32 = 3;

/// tokio-postgres' own default, two hours, which cannot be told from unset.
const UNSET_KEEPALIVE_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Settings of a [`CertConnectionManager`].
///
/// # Defaults
/// `connect_timeout` [`CONNECT_TIMEOUT`], `idle_ping` [`IDLE_PING`], name `default`; no
/// `on_connect`, no `hard_limit`, no Unix sockets. TCP keepalive, unless the connection string says
/// otherwise, after [`KEEPALIVE_IDLE`], each [`KEEPALIVE_INTERVAL`], [`KEEPALIVE_RETRIES`] times.
#[must_use]
pub struct CertConnectionManagerBuilder {
    live: LiveCert,
    config: Config,
    name: Arc<str>,
    connect_timeout: Duration,
    idle_ping: Duration,
    hard_limit: Option<Duration>,
    on_connect: Option<Arc<OnConnect>>,
    unix_sockets_allowed: bool,
}

impl CertConnectionManagerBuilder {
    pub(crate) fn new(live: LiveCert, config: Config) -> Self {
        Self {
            live,
            config,
            name: "default".into(),
            connect_timeout: CONNECT_TIMEOUT,
            idle_ping: IDLE_PING,
            hard_limit: None,
            on_connect: None,
            unix_sockets_allowed: false,
        }
    }

    /// Tells this pool from others in logs and metrics.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How long a connect may take in all.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an idle connection is quiet before it is pinged; [`Duration::MAX`] for never.
    ///
    /// One that does not answer within [`PING_TIMEOUT`](crate::PING_TIMEOUT) is replaced.
    pub fn idle_ping(mut self, quiet: Duration) -> Self {
        self.idle_ping = quiet;
        self
    }

    /// How long a connection in use may outlive its certificate; zero is not at all.
    ///
    /// Then what runs on it is cancelled, and it is closed [`CANCEL_GRACE`](crate::CANCEL_GRACE)
    /// later at most. Dedicated connections too, and those that went back while a stream of theirs is
    /// still read. Without a limit, nothing in use is ever ended.
    pub fn hard_limit(mut self, past_expiry: Duration) -> Self {
        self.hard_limit = Some(past_expiry);
        self
    }

    /// Allows hosts that are Unix sockets, where Postgres has no TLS: no certificate is used there.
    ///
    /// The pool still follows its certificate: it connects, rotates and ends as if one were used.
    pub fn allow_unix_sockets(mut self) -> Self {
        self.unix_sockets_allowed = true;
        self
    }

    /// Runs on every new client before anybody gets it: `SET`, `LISTEN`, prepared state.
    ///
    /// Unlike bb8's customizer it also runs on the replacements that a rotation connects. If it
    /// fails, so does the connect.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(live: perennial::LiveCert, config: tokio_postgres::Config) {
    /// use perennial_postgres::CertConnectionManager;
    ///
    /// let manager = CertConnectionManager::builder(live, config)
    ///     .on_connect(|client| Box::pin(client.batch_execute("set search_path to tenant_7")))
    ///     .build();
    /// # }
    /// ```
    pub fn on_connect<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(
                &'a Client,
            ) -> Pin<
                Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send + 'a>,
            > + Send
            + Sync
            + 'static,
    {
        let hook: Arc<OnConnect> = Arc::new(hook);
        self.on_connect = Some(hook);
        self
    }

    /// Checks the settings; connects nothing yet.
    ///
    /// # Errors
    /// - [`ConfigError::NoHost`] where there is none, [`ConfigError::PlainTcp`] for `sslmode=disable`.
    /// - [`ConfigError::UnixSocket`] and [`ConfigError::MixedHosts`] for hosts without TLS.
    /// - [`ConfigError::Setting`] for a timeout or a ping interval of zero.
    pub fn build(self) -> Result<CertConnectionManager, ConfigError> {
        Ok(CertConnectionManager::of(self.rotation()?))
    }

    fn rotation(self) -> Result<Rotation, ConfigError> {
        for (field, got) in [
            ("connect_timeout", self.connect_timeout),
            ("idle_ping", self.idle_ping),
        ] {
            if got.is_zero() {
                return Err(ConfigError::Setting { field, got });
            }
        }
        let mut config = self.config;
        let transport = transport(&config, self.unix_sockets_allowed)?;
        match transport {
            Transport::Tls => config = with_tls(config)?,
            // As in libpq, sslmode counts for nothing there: asked for TLS, Postgres would say no.
            Transport::UnixSocket => {
                config.ssl_mode(SslMode::Disable);
            }
        }
        let dialer = Dialer {
            live: self.live,
            config: with_keepalive(config),
            transport,
            connect_timeout: self.connect_timeout,
            on_connect: self.on_connect,
            signals: Arc::new(Signals::new(self.name)),
            standing: Standing::default(),
            leaving: Leaving::default(),
            ended: Arc::new(Notify::new()),
        };
        Ok(Rotation::new(
            Arc::new(dialer),
            self.idle_ping,
            self.hard_limit,
        ))
    }
}

impl fmt::Debug for CertConnectionManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertConnectionManagerBuilder")
            .field("live", &self.live)
            .field("name", &self.name)
            .field("hosts", &self.config.get_hosts())
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_ping", &self.idle_ping)
            .field("hard_limit", &self.hard_limit)
            .finish_non_exhaustive()
    }
}

/// What all hosts are reached by.
fn transport(config: &Config, unix_sockets_allowed: bool) -> Result<Transport, ConfigError> {
    let is_socket = |host: &&Host| !matches!(host, Host::Tcp(_));
    let sockets = config.get_hosts().iter().filter(is_socket).count();
    match sockets {
        0 => Ok(Transport::Tls),
        _ if !unix_sockets_allowed => Err(ConfigError::UnixSocket),
        all if all == config.get_hosts().len() => Ok(Transport::UnixSocket),
        _ => Err(ConfigError::MixedHosts),
    }
}

/// A peer that is gone shows itself to those who wait for its answer within a minute or so, not
/// after two hours.
fn with_keepalive(mut config: Config) -> Config {
    if config.get_keepalives_idle() == UNSET_KEEPALIVE_IDLE {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    config
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use perennial::testing::{TestCa, TestClock};

    use super::*;
    use crate::ConnectProbe;

    fn live() -> LiveCert {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let material = TestCa::new().issue(now, Duration::from_secs(3_600));
        let builder = LiveCert::builder().clock(&TestClock::starting_at(now));
        builder.fixed(material).unwrap()
    }

    #[test]
    fn settings_that_cannot_work_are_refused_at_build() {
        let table = [
            ("user=app", ConfigError::NoHost),
            ("host=db sslmode=disable", ConfigError::PlainTcp),
            ("host=/run/postgresql", ConfigError::UnixSocket),
            ("host=db,/run/postgresql", ConfigError::UnixSocket),
        ];
        let live = live();
        for (text, expected) in table {
            let config: Config = text.parse().unwrap();
            let refused = CertConnectionManagerBuilder::new(live.clone(), config.clone()).build();
            assert_eq!(refused.unwrap_err(), expected, "{text}");
            let refused = ConnectProbe::new(config);
            assert_eq!(refused.unwrap_err(), expected, "{text}");
        }
        let mixed = "host=db,/run/postgresql".parse().unwrap();
        let builder = CertConnectionManagerBuilder::new(live.clone(), mixed);
        let refused = builder.allow_unix_sockets().build();
        assert_eq!(refused.unwrap_err(), ConfigError::MixedHosts);

        let builder = CertConnectionManagerBuilder::new(live, "host=db".parse().unwrap());
        let error = builder.idle_ping(Duration::ZERO).build().unwrap_err();
        let text = "idle_ping is 0ns: it must be longer than zero";
        assert_eq!(error.to_string(), text);
    }
}
