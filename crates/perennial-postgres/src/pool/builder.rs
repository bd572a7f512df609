use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use perennial::LiveCert;
use tokio_postgres::{Client, Config};

use crate::error::ConnectError;
use crate::pool::manager::CertConnectionManager;
use crate::pool::state::{ManagerSettings, OnConnect, PoolState};
use crate::tls::with_tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_PING: Duration = Duration::from_secs(30);

/// TCP keepalive, for settings that do not choose their own: a peer that has vanished is noticed
/// within a minute, not after two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// tokio-postgres' own default, two hours, which looks the same as unset.
const UNSET_KEEPALIVE_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Settings of a [`CertPool`](crate::CertPool) or a [`CertConnectionManager`].
///
/// # Defaults
/// Those of the setters; no `on_connect` and no `hard_limit`. TCP keepalive, unless the connection
/// string sets its own, after 30 seconds, every 10 seconds, 3 times.
#[derive(Debug)]
#[must_use]
pub struct CertPoolBuilder {
    live: LiveCert,
    config: Config,
    settings: ManagerSettings,
    #[cfg(feature = "bb8")]
    pool: PoolSettings,
}

/// bb8's own default.
#[cfg(feature = "bb8")]
const BB8_MAX_SIZE: u32 = 10;

/// The settings that belong to bb8.
#[cfg(feature = "bb8")]
#[derive(Debug, Default, PartialEq)]
struct PoolSettings {
    max_size: Option<u32>,
    min_idle: Option<u32>,
    connection_timeout: Option<Duration>,
}

impl CertConnectionManager {
    /// Connects with these settings and the certificate that is current in `live` at the time.
    ///
    /// The default `sslmode`, prefer, is raised to require.
    ///
    /// # Errors
    /// [`ConnectError::Setting`] without a host, for a host that is a Unix socket, for another number
    /// of addresses or ports than of hosts, and for `sslmode=disable`.
    pub fn new(live: LiveCert, config: Config) -> Result<Self, ConnectError> {
        Self::builder(live, config).build_manager()
    }

    /// Settings other than the defaults; finish with [`CertPoolBuilder::build_manager`].
    pub fn builder(live: LiveCert, config: Config) -> CertPoolBuilder {
        CertPoolBuilder::new(live, config)
    }
}

impl CertPoolBuilder {
    pub(crate) fn new(live: LiveCert, config: Config) -> Self {
        Self {
            live,
            config,
            settings: ManagerSettings {
                name: "default".into(),
                connect_timeout: CONNECT_TIMEOUT,
                idle_ping: IDLE_PING,
                hard_limit: None,
                on_connect: None,
            },
            #[cfg(feature = "bb8")]
            pool: PoolSettings::default(),
        }
    }

    /// Distinguishes this pool from others in logs and metrics.
    ///
    /// # Defaults
    /// `default`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// How long a connect may take: certificate, TCP, TLS, login and `on_connect`, with all retries.
    ///
    /// Several hosts and addresses share it equally, so that one that never answers leaves time for
    /// the others. `connect_timeout` in the connection string limits the TCP connect of each.
    ///
    /// # Defaults
    /// 10 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long a connection is idle before it is pinged; [`Duration::MAX`] for never.
    ///
    /// A connection that does not answer within 5 seconds is replaced.
    ///
    /// # Defaults
    /// 30 seconds.
    pub fn idle_ping(mut self, quiet: Duration) -> Self {
        self.settings.idle_ping = quiet;
        self
    }

    /// How long a connection in use may outlive its certificate; zero for not at all.
    ///
    /// After that its query is cancelled, and the connection is closed at most one second later. It
    /// applies to dedicated connections too, and to those that were returned while a caller still
    /// reads a stream from them.
    ///
    /// # Defaults
    /// No limit: a connection in use is never closed.
    pub fn hard_limit(mut self, past_expiry: Duration) -> Self {
        self.settings.hard_limit = Some(past_expiry);
        self
    }

    /// Runs on every new client before the pool hands it out: `SET`, `LISTEN`, prepared state.
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
    ///     .build_manager();
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
        self.settings.on_connect = Some(hook);
        self
    }

    /// A manager alone, for a bb8 or deadpool pool of your own; connects nothing yet.
    ///
    /// # Errors
    /// [`ConnectError::Setting`] without a host, for a host that is a Unix socket, for another number
    /// of addresses or ports than of hosts, for `sslmode=disable`, for a timeout or ping interval of
    /// zero, and for settings of the pool, which belong to that pool's own builder.
    pub fn build_manager(self) -> Result<CertConnectionManager, ConnectError> {
        #[cfg(feature = "bb8")]
        if self.pool != PoolSettings::default() {
            let expected = "none for a manager; set them on the pool's own builder";
            return Err(ConnectError::setting("pool settings", self.pool, expected));
        }
        self.manager()
    }

    fn manager(self) -> Result<CertConnectionManager, ConnectError> {
        longer_than_zero("connect_timeout", self.settings.connect_timeout)?;
        longer_than_zero("idle_ping", self.settings.idle_ping)?;
        let config = with_keepalive(with_tls(self.config)?);
        let state = PoolState::new(self.live, config, self.settings);
        Ok(CertConnectionManager::of(state))
    }
}

#[cfg(feature = "bb8")]
impl CertPoolBuilder {
    /// How many connections the pool has at most, spares and dedicated ones excluded.
    ///
    /// # Defaults
    /// 10, as in bb8.
    pub fn max_size(mut self, connections: u32) -> Self {
        self.pool.max_size = Some(connections);
        self
    }

    /// How many idle connections the pool keeps ready.
    ///
    /// # Defaults
    /// None, as in bb8: connections are made when a check-out needs them.
    pub fn min_idle(mut self, connections: u32) -> Self {
        self.pool.min_idle = Some(connections);
        self
    }

    /// How long [`CertPool::get`](crate::CertPool::get) waits for a connection.
    ///
    /// # Defaults
    /// 30 seconds, as in bb8.
    pub fn connection_timeout(mut self, timeout: Duration) -> Self {
        self.pool.connection_timeout = Some(timeout);
        self
    }

    /// Builds the pool, and waits for the first `min_idle` connections, if any are set.
    ///
    /// # Errors
    /// - [`ConnectError::Setting`] for the reasons of [`build_manager`](Self::build_manager), for a
    ///   `max_size` or `connection_timeout` of zero, and for a `min_idle` above `max_size`.
    /// - Why a connect failed, if the first connections cannot be made within `connection_timeout`.
    ///
    /// # Cancel safety
    /// Cancelled, no pool is left.
    pub async fn build(mut self) -> Result<crate::CertPool, ConnectError> {
        let pool = std::mem::take(&mut self.pool);
        pool.check()?;
        let manager = self.manager()?;
        let mut builder = manager.bb8_builder().min_idle(pool.min_idle);
        if let Some(connections) = pool.max_size {
            builder = builder.max_size(connections);
        }
        if let Some(timeout) = pool.connection_timeout {
            builder = builder.connection_timeout(timeout);
        }
        let bb8 = builder.build(manager.clone()).await?;
        Ok(crate::CertPool::of(bb8, manager))
    }
}

#[cfg(feature = "bb8")]
impl PoolSettings {
    fn check(&self) -> Result<(), ConnectError> {
        let max_size = self.max_size.unwrap_or(BB8_MAX_SIZE);
        if max_size == 0 {
            return Err(ConnectError::setting("max_size", 0, "at least 1"));
        }
        if let Some(min_idle) = self.min_idle.filter(|min_idle| *min_idle > max_size) {
            let expected = "at most max_size";
            return Err(ConnectError::setting("min_idle", min_idle, expected));
        }
        self.connection_timeout.map_or(Ok(()), |timeout| {
            longer_than_zero("connection_timeout", timeout)
        })
    }
}

fn longer_than_zero(field: &'static str, got: Duration) -> Result<(), ConnectError> {
    if got.is_zero() {
        return Err(ConnectError::setting(field, got, "longer than zero"));
    }
    Ok(())
}

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

    fn builder(text: &str) -> CertPoolBuilder {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let material = TestCa::new().issue(now, Duration::from_secs(3_600));
        let live = LiveCert::builder().clock(&TestClock::starting_at(now));
        CertPoolBuilder::new(live.fixed(material).unwrap(), text.parse().unwrap())
    }

    /// Scenario: F9
    #[test]
    fn connection_settings_that_cannot_work_are_refused_at_build() {
        let socket = "invalid host Unix(\"/run/postgresql\"): expected a TCP host (postgres has no \
                      TLS on Unix sockets)";
        let disabled = "invalid sslmode \"disable\": expected require or unset (client certificates \
                        need TLS)";
        let table = [
            ("user=app", "invalid host \"\": expected a TCP host"),
            ("host=db sslmode=disable", disabled),
            ("host=/run/postgresql", socket),
            ("host=db,/run/postgresql", socket),
            // The driver would dial the address, over plain TCP.
            ("host=/run/postgresql hostaddr=10.0.0.5", socket),
            (
                "hostaddr=10.0.0.5",
                "invalid host \"\": expected the name in the server's certificate, next to hostaddr",
            ),
            (
                "host=a,b hostaddr=10.0.0.5",
                "invalid hostaddr [10.0.0.5]: expected one address for each host",
            ),
            (
                "host=a,b,c port=1,2",
                "invalid port [1, 2]: expected one port, or one for each host",
            ),
        ];
        for (text, expected) in table {
            let error = builder(text).build_manager().unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
            let error = ConnectProbe::new(text.parse().unwrap()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
        let error = builder("host=db").idle_ping(Duration::ZERO).build_manager();
        let text = "invalid idle_ping 0ns: expected longer than zero";
        assert_eq!(error.unwrap_err().to_string(), text);
    }

    #[cfg(feature = "bb8")]
    #[tokio::test]
    async fn pool_settings_that_cannot_work_are_refused_at_build() {
        let builder = || builder("host=db");
        let table = [
            (
                builder().max_size(0),
                "invalid max_size 0: expected at least 1",
            ),
            (
                builder().max_size(2).min_idle(3),
                "invalid min_idle 3: expected at most max_size",
            ),
            (
                builder().connection_timeout(Duration::ZERO),
                "invalid connection_timeout 0ns: expected longer than zero",
            ),
        ];
        for (builder, expected) in table {
            assert_eq!(builder.build().await.unwrap_err().to_string(), expected);
        }
        let error = builder().min_idle(1).build_manager().unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("invalid pool settings"), "{text}");
        assert!(text.contains("min_idle: Some(1)"), "{text}");
        assert!(builder().min_idle(0).max_size(1).build().await.is_ok());
        // bb8's defaults, which the checks and the docs repeat.
        let defaults = builder().build().await.unwrap().bb8().config();
        assert_eq!(defaults.max_size, BB8_MAX_SIZE);
        assert_eq!(defaults.min_idle, None);
        assert_eq!(defaults.connection_timeout, Duration::from_secs(30));
    }

    #[test]
    fn documented_numbers_are_these() {
        assert_eq!(CONNECT_TIMEOUT, Duration::from_secs(10));
        assert_eq!(IDLE_PING, Duration::from_secs(30));
        assert_eq!(KEEPALIVE_IDLE, Duration::from_secs(30));
        assert_eq!(KEEPALIVE_INTERVAL, Duration::from_secs(10));
        assert_eq!(KEEPALIVE_RETRIES, 3);
    }
}
