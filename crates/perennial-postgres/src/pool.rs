//! The pool, and what is behind every pool: sessions that know their certificate.
//!
//! `policy` decides. `state` is what a pool's connections and its background task share; `connect`,
//! `checkout`, `rotate`, `maintain`, `retire` and `cancel` are functions over it. `session` is a
//! client and its task, `new_session` a connect until its session is handed out (`in_flight` has all
//! of them), `slot` a session's place in the pool, `observe` what the outside sees.

#[cfg(feature = "bb8")]
use {
    crate::error::ConnectError,
    bb8::PooledConnection,
    builder::CertPoolBuilder,
    connection::PgConnection,
    manager::CertConnectionManager,
    observe::{PoolEvent, PoolStatus},
    perennial::{Events, LiveCert},
    std::time::Duration,
    tokio_postgres::Config,
};

pub(crate) mod accepted;
pub(crate) mod builder;
pub(crate) mod cancel;
pub(crate) mod checkout;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod in_flight;
pub(crate) mod maintain;
pub(crate) mod manager;
#[cfg(test)]
mod model;
pub(crate) mod new_session;
pub(crate) mod observe;
pub(crate) mod policy;
pub(crate) mod retire;
pub(crate) mod rotate;
pub(crate) mod session;
pub(crate) mod slot;
pub(crate) mod state;

/// A bb8 pool that moves onto each new certificate.
///
/// What it does with its connections is the manager's: see [`CertConnectionManager`]. What it adds
/// is an error that names the cause: where bb8 returns "timed out", [`get`](Self::get) returns why
/// the last connect failed.
///
/// Clones share everything. When the last one is dropped, idle connections close, and those in use
/// close when they are dropped.
///
/// # Example
/// ```no_run
/// # async fn example(live: perennial::LiveCert) -> Result<(), Box<dyn std::error::Error>> {
/// use perennial_postgres::CertPool;
///
/// let config = "host=db.example user=app".parse()?;
/// let pool = CertPool::builder(live, config).max_size(20).build().await?;
///
/// let client = pool.get().await?;
/// let row = client.query_one("select 1", &[]).await?;
/// # Ok(()) }
/// ```
#[cfg(feature = "bb8")]
#[derive(Clone, Debug)]
pub struct CertPool {
    bb8: bb8::Pool<CertConnectionManager>,
    manager: CertConnectionManager,
}

#[cfg(feature = "bb8")]
impl CertPool {
    /// Connects with these settings and the certificate that is current in `live` at the time.
    ///
    /// The default `sslmode`, prefer, is raised to require.
    pub fn builder(live: LiveCert, config: Config) -> CertPoolBuilder {
        CertPoolBuilder::new(live, config)
    }

    pub(crate) fn of(
        bb8: bb8::Pool<CertConnectionManager>,
        manager: CertConnectionManager,
    ) -> Self {
        Self { bb8, manager }
    }

    /// Checks out a connection, without a round trip; dropping it returns it to the pool.
    ///
    /// # Errors
    /// - [`ConnectError::NoneFree`] after the pool's `connection_timeout`; its cause is why the last
    ///   connect failed, if it failed.
    /// - [`ConnectError::Draining`] at once, if the pool is draining.
    ///
    /// # Cancel safety
    /// Cancelled, no connection is lost.
    pub async fn get(&self) -> Result<PooledConnection<'_, CertConnectionManager>, ConnectError> {
        self.manager.state().check_not_draining()?;
        let connection = self.bb8.get().await;
        connection.map_err(|error| self.manager.explain(error))
    }

    /// As [`get`](Self::get), for a connection that does not borrow the pool.
    pub async fn get_owned(
        &self,
    ) -> Result<PooledConnection<'static, CertConnectionManager>, ConnectError> {
        self.manager.state().check_not_draining()?;
        let connection = self.bb8.get_owned().await;
        connection.map_err(|error| self.manager.explain(error))
    }

    /// As [`CertConnectionManager::dedicated_connection`].
    pub async fn dedicated_connection(&self) -> Result<PgConnection, ConnectError> {
        self.manager.dedicated_connection().await
    }

    /// As [`CertConnectionManager::status`].
    pub fn status(&self) -> PoolStatus {
        self.manager.status()
    }

    /// As [`CertConnectionManager::events`].
    pub fn events(&self) -> Events<PoolEvent> {
        self.manager.events()
    }

    /// As [`CertConnectionManager::retire`].
    pub async fn retire(&self) -> usize {
        self.manager.retire().await
    }

    /// As [`CertConnectionManager::retire_immediately`].
    pub async fn retire_immediately(&self) -> usize {
        self.manager.retire_immediately().await
    }

    /// As [`CertConnectionManager::drain`].
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.manager.drain(deadline).await
    }

    /// The bb8 pool inside, for its own `state` and statistics.
    pub fn bb8(&self) -> &bb8::Pool<CertConnectionManager> {
        &self.bb8
    }

    /// The manager of the pool.
    pub fn manager(&self) -> &CertConnectionManager {
        &self.manager
    }
}
