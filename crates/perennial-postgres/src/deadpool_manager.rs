use std::fmt;
use std::ops::{Deref, DerefMut};

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolBuilder, RecycleError, RecycleResult};

use crate::error::ConnectError;
use crate::pool::connection::PgConnection;
use crate::pool::manager::CertConnectionManager;

/// A deadpool pool whose connections are exchanged as they go idle.
pub type DeadpoolPool = Pool<CertConnectionManager, DeadpoolConnection>;

/// For deadpool.
impl CertConnectionManager {
    /// A deadpool builder for this manager: the pool's connections park when they come back.
    ///
    /// In the pool's own `retain`, look at connections by what claims nothing:
    /// [`is_closed`](PgConnection::is_closed), [`generation`](PgConnection::generation).
    ///
    /// # Defaults
    /// Tokio as the runtime, so that timeouts can be set. The rest is deadpool's: `get` waits as long
    /// as it takes for a connection to come back, and what [`ConnectError`] says reaches the caller.
    ///
    /// # Example
    /// ```no_run
    /// # async fn example(live: perennial::LiveCert) -> Result<(), Box<dyn std::error::Error>> {
    /// use perennial_postgres::CertConnectionManager;
    ///
    /// let manager = CertConnectionManager::new(live, "host=db.example user=app".parse()?)?;
    /// let pool = manager.deadpool_builder().max_size(20).build()?;
    ///
    /// let client = pool.get().await?;
    /// let row = client.query_one("select 1", &[]).await?;
    /// # Ok(()) }
    /// ```
    pub fn deadpool_builder(&self) -> PoolBuilder<Self, DeadpoolConnection> {
        DeadpoolPool::builder(self.clone()).runtime(Runtime::Tokio1)
    }
}

impl Manager for CertConnectionManager {
    type Type = PgConnection;
    type Error = ConnectError;

    async fn create(&self) -> Result<PgConnection, ConnectError> {
        let connection = self.running().connect().await?;
        connection.slot().mark_pooled(true);
        Ok(connection)
    }

    /// Costs no round trip: what the driver has read is known at once.
    async fn recycle(
        &self,
        connection: &mut PgConnection,
        _metrics: &Metrics,
    ) -> RecycleResult<ConnectError> {
        let fit = self.rotation().check_out(connection);
        fit.map_err(RecycleError::Backend)
    }

    /// Taken out of the pool: nobody waits for it to come back.
    fn detach(&self, connection: &mut PgConnection) {
        connection.slot().mark_pooled(false);
    }
}

/// A checked-out connection of a [`DeadpoolPool`]; derefs to [`PgConnection`].
///
/// deadpool has no hook at return. This is its place: dropped, it parks its connection where a
/// rotation can exchange it, and goes back to the pool.
pub struct DeadpoolConnection {
    /// Empty only while this is being dropped.
    object: Option<Object<CertConnectionManager>>,
}

impl DeadpoolConnection {
    /// Takes the connection out of the pool for good: from then on it is dedicated.
    pub fn take(mut self) -> PgConnection {
        #[expect(clippy::expect_used, reason = "only `take` and `drop` empty it")]
        Object::take(self.object.take().expect("not dropped yet"))
    }

    fn object(&self) -> &Object<CertConnectionManager> {
        #[expect(clippy::expect_used, reason = "only `take` and `drop` empty it")]
        self.object.as_ref().expect("not dropped yet")
    }
}

impl From<Object<CertConnectionManager>> for DeadpoolConnection {
    fn from(object: Object<CertConnectionManager>) -> Self {
        Self {
            object: Some(object),
        }
    }
}

impl Drop for DeadpoolConnection {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else {
            return;
        };
        // Without its pool it is closed with this.
        let Some(pool) = Object::pool(&object) else {
            return;
        };
        if !pool.manager().rotation().take_back(&mut object) {
            drop(Object::take(object));
        }
    }
}

impl Deref for DeadpoolConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.object()
    }
}

impl DerefMut for DeadpoolConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        #[expect(clippy::expect_used, reason = "only `take` and `drop` empty it")]
        self.object.as_mut().expect("not dropped yet")
    }
}

impl fmt::Debug for DeadpoolConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeadpoolConnection")
            .field(&**self.object())
            .finish()
    }
}
