use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::LiveCert;
use tokio::task::JoinHandle;
use tokio_postgres::Config;

use crate::error::ConfigError;
use crate::pool::builder::CertConnectionManagerBuilder;
use crate::pool::events::PoolEvents;
use crate::pool::metrics;
use crate::pool::rotation::Rotation;
use crate::pool::status::{Drained, PoolStatus, Retire, Retired};

/// A manager for bb8 and deadpool whose pool moves onto each new certificate by itself.
///
/// Each connect takes one snapshot and keeps it. When a newer one appears, idle connections are
/// exchanged for replacements that were connected first, a few at a time; connections that are
/// checked out are exchanged when they come back. Running queries, transactions and streams are
/// never touched. Connections that the server closed, or that no longer answer, are replaced too.
///
/// # How many connections the server sees
/// At most the pool's size, plus [`BUDGET`](crate::BUDGET) spares
/// ([`MOST_AT_ONCE`](crate::MOST_AT_ONCE) when time is short), plus those old connections that still
/// finish what runs on them, plus dedicated ones. Plan `max_connections` for that; with a
/// [`ConnectProbe`](crate::ConnectProbe), for one more.
///
/// Clones share everything. When the last one is dropped, as by dropping the pool, the background
/// task ends.
///
/// # Example
/// ```no_run
/// # #[cfg(feature = "bb8")]
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
        metrics::gone(self.rotation.dialer.signals.name());
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
    /// [`ConfigError::NoHost`], [`ConfigError::PlainTcp`] for `sslmode=disable`,
    /// [`ConfigError::UnixSocket`] for a host that is one.
    pub fn new(live: LiveCert, config: Config) -> Result<Self, ConfigError> {
        Self::builder(live, config).build()
    }

    /// Settings other than the defaults.
    pub fn builder(live: LiveCert, config: Config) -> CertConnectionManagerBuilder {
        CertConnectionManagerBuilder::new(live, config)
    }

    pub(crate) fn of(rotation: Rotation) -> Self {
        Self {
            shared: Arc::new(Shared {
                rotation: Arc::new(rotation),
                replacer: Mutex::default(),
            }),
        }
    }

    /// What the pool is made of now.
    pub fn status(&self) -> PoolStatus {
        self.shared.rotation.status()
    }

    /// What happens from here on; [`status`](Self::status) says what is.
    pub fn events(&self) -> PoolEvents {
        PoolEvents(self.shared.rotation.dialer.signals.subscribe())
    }

    /// Retires every older connection now, without regard to pace, and says what came of it.
    ///
    /// Waits until the idle ones are replaced, at most as long as a connect may take. Those in use
    /// are not waited for: they are counted as left, and exchanged when they come back. With
    /// [`Retire::Immediately`] everything older is closed, dedicated connections and streams
    /// included, and nothing older is connected with again, whatever the server says of the newest.
    ///
    /// Older is what came before the newest generation: for a key that may have leaked, renew first,
    /// and see that it was renewed.
    ///
    /// # Cancel safety
    /// Cancelled, the pool is moved all the same; connections in use may be left open.
    pub async fn retire_now(&self, how: Retire) -> Retired {
        self.shared.start_replacer();
        self.shared.rotation.retire_now(how).await
    }

    /// Hands out nothing more, for good, and waits until every connection has finished and is closed.
    ///
    /// Idle ones are closed at once, those in use when they come back; a dedicated one is waited for
    /// until it is dropped. deadpool's check-outs fail at once with
    /// [`ConnectError::Draining`](crate::ConnectError::Draining); bb8's wait for their timeout, and
    /// `explain` says so.
    ///
    /// # Cancel safety
    /// Cancelled, the pool hands out nothing more all the same.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.shared.rotation.drain(deadline).await
    }

    /// What is behind the pool, with its background task running.
    pub(crate) fn running(&self) -> &Rotation {
        self.shared.start_replacer();
        &self.shared.rotation
    }

    pub(crate) fn rotation(&self) -> &Arc<Rotation> {
        &self.shared.rotation
    }
}

impl fmt::Debug for CertConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.rotation.fmt(f)
    }
}
