//! How pools without spares get rid of old certificates, on stock bb8.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::{LiveCert, Unavailable};
use perennial_postgres::bb8::ManageConnection;
use tokio_postgres::{Client, Config};

use crate::stage::{connect, static_tls};

/// The `max_lifetime` of [`Retire::ByAge`]: each rotation is over within it.
pub const LIFETIME: Duration = Duration::from_secs(4);

/// When an old connection is given up; a new one is made afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// `has_broken` says so of every old one.
    AtReturn,
    /// `is_valid` does.
    AtCheckOut,
    /// Nobody does: bb8's own `max_lifetime`, [`LIFETIME`].
    ByAge,
}

/// What a service writes without us, but for `bb8-postgres`' ping at each check-out.
#[derive(Debug)]
pub(super) struct StockManager {
    pub(super) live: LiveCert,
    pub(super) config: Config,
    pub(super) retire: Retire,
    pub(super) census: Census,
}

/// Connections that are alive, by the generation of their certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct Census(Arc<Mutex<BTreeMap<u64, usize>>>);

impl Census {
    pub(super) fn by_generation(&self) -> BTreeMap<u64, usize> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is counted while it lives.
pub(super) struct Counted {
    client: Client,
    generation: u64,
    census: Census,
}

impl Deref for Counted {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut census = self.census.lock();
        if let Some(count) = census.get_mut(&self.generation) {
            *count -= 1;
        }
        census.retain(|_, count| *count > 0);
    }
}

impl StockManager {
    fn is_old(&self, connection: &Counted) -> bool {
        let current = self.live.current();
        current.is_ok_and(|snapshot| connection.generation < snapshot.generation())
    }
}

/// Why a stock pool has no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum StockError {
    #[error("no certificate")]
    Certificate(#[from] Unavailable),
    #[error("postgres could not be connected")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("its certificate is old")]
    Old,
}

impl ManageConnection for StockManager {
    type Connection = Counted;
    type Error = StockError;

    async fn connect(&self) -> Result<Counted, StockError> {
        let snapshot = self.live.current()?;
        let client = connect(&self.config, static_tls(&snapshot)).await?;
        let generation = snapshot.generation();
        *self.census.lock().entry(generation).or_default() += 1;
        Ok(Counted {
            client,
            generation,
            census: self.census.clone(),
        })
    }

    async fn is_valid(&self, connection: &mut Counted) -> Result<(), StockError> {
        if self.retire == Retire::AtCheckOut && self.is_old(connection) {
            return Err(StockError::Old);
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut Counted) -> bool {
        connection.is_closed() || self.retire == Retire::AtReturn && self.is_old(connection)
    }
}
