use std::fmt;
use std::ops::{Deref, DerefMut};

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolBuilder, RecycleError, RecycleResult};

use crate::error::ConnectError;
use crate::pool::checkout;
use crate::pool::connection::PgConnection;
use crate::pool::manager::CertConnectionManager;

/// For deadpool.
impl CertConnectionManager {
    /// A deadpool builder for this manager.
    ///
    /// In the pool's own `retain`, call only methods that claim nothing:
    /// [`is_closed`](PgConnection::is_closed), [`generation`](PgConnection::generation).
    ///
    /// # Defaults
    /// Tokio as the runtime, so that timeouts can be set. The rest is deadpool's: `get` waits without
    /// a limit until a connection is returned, and the caller gets the [`ConnectError`].
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
        Pool::builder(self.clone()).runtime(Runtime::Tokio1)
    }
}

impl Manager for CertConnectionManager {
    type Type = PgConnection;
    type Error = ConnectError;

    async fn create(&self) -> Result<PgConnection, ConnectError> {
        let connection = self.dedicated_connection().await?;
        connection.slot().mark_pooled(true);
        Ok(connection)
    }

    /// Costs no round trip: what the driver has read is known.
    async fn recycle(
        &self,
        connection: &mut PgConnection,
        _metrics: &Metrics,
    ) -> RecycleResult<ConnectError> {
        checkout::check_out(self.state(), connection).map_err(RecycleError::Backend)
    }

    /// Taken out of the pool: it is dedicated from now on.
    fn detach(&self, connection: &mut PgConnection) {
        connection.slot().mark_pooled(false);
    }
}

/// A connection that was checked out of a deadpool pool; derefs to [`PgConnection`].
///
/// Dropping it returns the connection: it parks the client where a rotation can exchange it, which
/// deadpool itself has no hook for.
pub struct DeadpoolConnection {
    /// `None` only while this is being dropped.
    object: Option<Object<CertConnectionManager>>,
}

impl DeadpoolConnection {
    /// Takes the connection out of the pool permanently: it is dedicated from then on.
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
        // Without its pool, the connection closes when it is dropped here.
        let Some(pool) = Object::pool(&object) else {
            return;
        };
        if !checkout::take_back(pool.manager().state(), &mut object) {
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
