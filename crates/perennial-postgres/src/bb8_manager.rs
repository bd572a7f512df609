use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bb8::{ErrorSink, ManageConnection, RunError};
use perennial::{LiveCert, with_causes};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config};

use crate::connection::PgConnection;
use crate::error::{CheckoutError, ConfigError, ConnectError};
use crate::rotation::Rotation;
use crate::session::{Dialer, OnConnect};

/// How long a connect may take in all: certificate, TCP, TLS, login and `on_connect`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A bb8 manager whose pool moves onto each new certificate by itself.
///
/// Each connect takes one snapshot and keeps it. When a newer one appears, idle connections are
/// exchanged for replacements that were connected first, a few at a time; connections that are
/// checked out are exchanged when they come back. Running queries, transactions and streams are
/// never touched. The server sees at most the pool's size, [`BUDGET`](crate::BUDGET) spares
/// ([`MOST_AT_ONCE`](crate::MOST_AT_ONCE) when time is short) and those old connections that still
/// finish what runs on them.
///
/// Clones share everything. When the last one is dropped, as by dropping the pool, the task that
/// replaces connections ends.
///
/// # Example
/// ```no_run
/// # async fn example(live: perennial::LiveCert) -> Result<(), Box<dyn std::error::Error>> {
/// use perennial_postgres::CertConnectionManager;
///
/// let manager = CertConnectionManager::new(live, "host=db.example user=app".parse()?)?;
/// let pool = manager.pool_builder().max_size(20).build(manager.clone()).await?;
///
/// let client = pool.get().await?;
/// let row = client.query_one("select 1", &[]).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CertConnectionManager {
    shared: Arc<Shared>,
}

struct Shared {
    rotation: Arc<Rotation>,
    /// Started by the first connect, which is always inside a runtime.
    replacer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(replacer) = &*self.replacer() {
            replacer.abort();
        }
    }
}

impl Shared {
    /// Starts the replacer, also if it ended with the runtime that an earlier connect was made in.
    fn start_replacer(&self) {
        let mut replacer = self.replacer();
        if replacer.as_ref().is_none_or(JoinHandle::is_finished) {
            *replacer = Some(tokio::spawn(Arc::clone(&self.rotation).run()));
        }
    }

    fn replacer(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.replacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CertConnectionManager {
    /// Connects to `config` with what `live` holds at the time.
    ///
    /// The default `sslmode`, prefer, is raised to require. User, hosts and the rest are `config`'s.
    ///
    /// # Errors
    /// [`ConfigError::PlainTcp`] for `sslmode=disable`.
    pub fn new(live: LiveCert, config: Config) -> Result<Self, ConfigError> {
        Self::builder(live, config).build()
    }

    /// Settings other than the defaults.
    pub fn builder(live: LiveCert, config: Config) -> CertConnectionManagerBuilder {
        CertConnectionManagerBuilder {
            dialer: Dialer {
                live,
                config,
                connect_timeout: CONNECT_TIMEOUT,
                on_connect: None,
            },
        }
    }

    /// A bb8 builder with what rotation needs: hand it a clone of this manager.
    ///
    /// # Defaults
    /// No `max_lifetime` and no `idle_timeout`, which would close connections that rotation keeps
    /// fresh anyway; `test_on_check_out`, which costs no round trip here; and an error sink that
    /// logs and remembers why connects fail. The rest is bb8's.
    pub fn pool_builder(&self) -> bb8::Builder<Self> {
        bb8::Pool::builder()
            .max_lifetime(None)
            .idle_timeout(None)
            .test_on_check_out(true)
            .error_sink(Box::new(Sink(Arc::clone(&self.shared.rotation))))
    }

    /// What the pool is made of now.
    pub fn status(&self) -> PoolStatus {
        let rotation = &self.shared.rotation;
        PoolStatus {
            by_generation: rotation.by_generation(),
            spares: rotation.spares(),
            retired: rotation.retired(),
            last_error: rotation.last_error(),
        }
    }

    /// Adds the cause to what `pool.get()` returned.
    ///
    /// # Example
    /// ```no_run
    /// # use perennial_postgres::{CertConnectionManager, CheckoutError};
    /// # async fn example(
    /// #     pool: bb8::Pool<CertConnectionManager>, manager: CertConnectionManager,
    /// # ) -> Result<(), CheckoutError> {
    /// let client = pool.get().await.map_err(|error| manager.explain(error))?;
    /// # Ok(()) }
    /// ```
    pub fn explain(&self, error: RunError<ConnectError>) -> CheckoutError {
        match error {
            RunError::TimedOut => CheckoutError::TimedOut {
                last: self.shared.rotation.last_error(),
            },
            RunError::User(error) => CheckoutError::Failed(Arc::new(error)),
        }
    }
}

impl ManageConnection for CertConnectionManager {
    type Connection = PgConnection;
    type Error = ConnectError;

    async fn connect(&self) -> Result<PgConnection, ConnectError> {
        self.shared.start_replacer();
        self.shared.rotation.connect().await
    }

    /// Costs no round trip: what the driver has read is known at once.
    async fn is_valid(&self, connection: &mut PgConnection) -> Result<(), ConnectError> {
        let rotation = &self.shared.rotation;
        connection.slot().mark_pooled();
        if connection.is_closed() {
            return Err(ConnectError::Closed);
        }
        if rotation.is_old(&connection.snapshot()) {
            rotation.exchange_claimed(connection);
        }
        let snapshot = connection.snapshot();
        if rotation.has_expired(&snapshot) {
            return Err(ConnectError::Expired {
                generation: snapshot.generation(),
                not_after: snapshot.not_after(),
            });
        }
        Ok(())
    }

    /// Called at return: exchanges an old client if a spare stands ready, and parks.
    fn has_broken(&self, connection: &mut PgConnection) -> bool {
        let rotation = &self.shared.rotation;
        let slot = Arc::clone(connection.slot());
        slot.mark_pooled();
        if !connection.is_claimed() {
            return slot.is_parked_and_closed();
        }
        if connection.is_closed() {
            return true;
        }
        if rotation.is_old(&connection.snapshot()) {
            rotation.exchange_claimed(connection);
        }
        if rotation.has_expired(&connection.snapshot()) {
            return true;
        }
        connection.park();
        if rotation.is_old(&slot.built_on()) {
            rotation.old_one_is_parked();
        }
        false
    }
}

impl fmt::Debug for CertConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.rotation.fmt(f)
    }
}

/// Settings of a [`CertConnectionManager`].
///
/// # Defaults
/// `connect_timeout` [`CONNECT_TIMEOUT`], no `on_connect`.
#[must_use]
#[derive(Debug)]
pub struct CertConnectionManagerBuilder {
    dialer: Dialer,
}

impl CertConnectionManagerBuilder {
    /// How long a connect may take in all.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.dialer.connect_timeout = timeout;
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
        self.dialer.on_connect = Some(hook);
        self
    }

    /// Checks the settings; connects nothing yet.
    ///
    /// # Errors
    /// - [`ConfigError::PlainTcp`] for `sslmode=disable`.
    /// - [`ConfigError::Setting`] for a timeout of zero.
    pub fn build(mut self) -> Result<CertConnectionManager, ConfigError> {
        let got = self.dialer.connect_timeout;
        if got.is_zero() {
            let field = "connect_timeout";
            return Err(ConfigError::Setting { field, got });
        }
        match self.dialer.config.get_ssl_mode() {
            SslMode::Disable => return Err(ConfigError::PlainTcp),
            SslMode::Require => {}
            // Prefer cannot be told from unset, and would go on in plain text.
            _ => {
                self.dialer.config.ssl_mode(SslMode::Require);
            }
        }
        let shared = Arc::new(Shared {
            rotation: Arc::new(Rotation::new(self.dialer)),
            replacer: Mutex::default(),
        });
        Ok(CertConnectionManager { shared })
    }
}

/// What a pool is made of, at one moment, as this side sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Connections by the generation of their certificate; dedicated ones too.
    pub by_generation: BTreeMap<u64, usize>,
    /// Replacements that stand ready for old connections to come back.
    pub spares: usize,
    /// Connections retired since the manager was built.
    pub retired: u64,
    /// Why the last connect failed; `None` once one has succeeded.
    pub last_error: Option<Arc<ConnectError>>,
}

/// Keeps what bb8 would drop.
#[derive(Debug)]
struct Sink(Arc<Rotation>);

impl ErrorSink<ConnectError> for Sink {
    fn sink(&self, error: ConnectError) {
        // Neither is a failure to connect: the pool replaces what is closed.
        if let ConnectError::Closed | ConnectError::Expired { .. } = error {
            tracing::debug!(%error, "a pooled connection is replaced");
            return;
        }
        let error = self.0.note_error(error);
        tracing::warn!(error = %with_causes(&*error), "a pooled connection could not be made");
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<ConnectError>> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}
