use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::Events;
use tokio::task::JoinHandle;

use crate::error::ConnectError;
use crate::pool::connection::PgConnection;
use crate::pool::observe::{PoolEvent, PoolStatus};
use crate::pool::state::PoolState;
use crate::pool::{checkout, maintain, retire, rotate};

/// A manager for a bb8 or deadpool pool of your own, which moves it onto each new certificate.
///
/// Each connect takes one snapshot and keeps it. When a newer one appears, idle connections are
/// exchanged for replacements that were connected first, a few at a time; connections that are
/// checked out are exchanged when they are returned. Running queries, transactions and streams are
/// never interrupted. Connections that the server closed, or that do not answer, are replaced too.
///
/// # How many connections the server sees
/// At most the pool's size, plus two spares (eight when time is short), plus old connections that
/// still finish what runs on them, plus dedicated ones; for a moment, also connects that were given
/// up, whose hook is being cancelled. Plan `max_connections` for that; with a
/// [`ConnectProbe`](crate::ConnectProbe), for one more.
///
/// Clones share everything. When the last one is dropped, for example with its pool, the background
/// task ends.
///
/// # Example
/// ```no_run
/// # #[cfg(feature = "bb8")]
/// # async fn example(live: perennial::LiveCert) -> Result<(), Box<dyn std::error::Error>> {
/// use perennial_postgres::CertConnectionManager;
///
/// let manager = CertConnectionManager::new(live, "host=db.example user=app".parse()?)?;
/// let pool = manager.bb8_builder().max_size(20).build(manager.clone()).await?;
///
/// let client = pool.get().await.map_err(|error| manager.explain(error))?;
/// let row = client.query_one("select 1", &[]).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct CertConnectionManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Arc<PoolState>,
    /// Started by the first connect, which is always inside a runtime.
    background: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    /// Starts the background task, also if the runtime of an earlier one has ended.
    fn start_background(&self) {
        let mut background = self.background();
        if background.as_ref().is_none_or(JoinHandle::is_finished) {
            *background = Some(tokio::spawn(run(Arc::clone(&self.state))));
        }
    }

    fn background(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.background
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(background) = &*self.background() {
            background.abort();
        }
        self.state.observer.pool_dropped();
    }
}

/// The background task; runs until it is aborted.
async fn run(state: Arc<PoolState>) {
    // A dedicated connection may keep the state after the pool is dropped; its spares must close.
    let _spares = ClearOnDrop(&state);
    tokio::join!(
        rotate::follow_generations(&state),
        rotate::replace(&state),
        maintain::close_expired(&state),
        maintain::ping_quiet(&state),
    );
}

struct ClearOnDrop<'a>(&'a PoolState);

impl Drop for ClearOnDrop<'_> {
    fn drop(&mut self) {
        self.0.spares.clear();
    }
}

impl CertConnectionManager {
    pub(crate) fn of(state: PoolState) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Arc::new(state),
                background: Mutex::default(),
            }),
        }
    }

    /// A new connection that no pool owns: its caller moves it, with [`PgConnection::refresh`].
    ///
    /// # Errors
    /// Every way in which a connect can fail; retries within the connect timeout while waiting may
    /// help.
    ///
    /// # Cancel safety
    /// Cancelled, the connect ends.
    pub async fn dedicated_connection(&self) -> Result<PgConnection, ConnectError> {
        self.shared.start_background();
        checkout::open(&self.shared.state).await
    }

    /// What the pool consists of now.
    pub fn status(&self) -> PoolStatus {
        self.shared.state.status()
    }

    /// What happens from now on; [`status`](Self::status) has what happened before.
    ///
    /// # Defaults
    /// A reader that is more than 64 events behind misses some.
    pub fn events(&self) -> Events<PoolEvent> {
        self.shared.state.observer.subscribe()
    }

    /// Retires every older connection now, without pauses, and returns how many are left.
    ///
    /// Older means: of a generation before the newest. Waits until the idle ones are exchanged, at
    /// most as long as a connect may take. Those in use are left, and exchanged when they are
    /// returned; idle ones are left only if no replacement could be connected.
    ///
    /// # Cancel safety
    /// Cancelled, the pool is moved anyway.
    pub async fn retire(&self) -> usize {
        self.shared.start_background();
        retire::retire(&self.shared.state).await
    }

    /// Closes every older connection now, and returns how many are left: for a leaked key.
    ///
    /// Renew first ([`LiveCert::renew`](perennial::LiveCert::renew)), and check that the generation
    /// is a newer one. Queries on older connections are cancelled; one second later the connections
    /// are closed, dedicated ones and streams included. From then on the pool never connects with an
    /// older generation, even if the server refuses the newest.
    ///
    /// # Cancel safety
    /// Cancelled, the pool is moved anyway; connections in use may stay open.
    pub async fn retire_immediately(&self) -> usize {
        self.shared.start_background();
        retire::retire_immediately(&self.shared.state).await
    }

    /// Stops handing out connections and waits for all of them to close; returns how many are left
    /// at the deadline.
    ///
    /// Idle ones close at once, those in use when they are returned, dedicated ones when they are
    /// dropped. It cannot be undone. Check-outs fail with [`ConnectError::Draining`]; those of a bb8
    /// pool of your own wait for their timeout first.
    ///
    /// # Cancel safety
    /// Cancelled, the pool still hands out no more connections.
    pub async fn drain(&self, deadline: Duration) -> usize {
        retire::drain(&self.shared.state, deadline).await
    }

    pub(crate) fn state(&self) -> &Arc<PoolState> {
        &self.shared.state
    }
}
