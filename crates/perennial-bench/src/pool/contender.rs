//! The pools in the comparison: ours, and stock bb8 with three ways to retire old connections.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use perennial::{LiveCert, Unavailable, with_causes};
use perennial_postgres::bb8::{self, ManageConnection};
use perennial_postgres::{CertPool, ConnectProbe};
use tokio_postgres::{Client, Config};

use crate::stage::{Stage, connect, eventually, static_tls};

/// How long a request waits for a connection before it fails.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How often bb8 looks for connections that are too old; its default is 30 s.
const REAPER_RATE: Duration = Duration::from_millis(250);

/// The `max_lifetime` of [`Retire::ByAge`], within which each rotation ends.
pub const MAX_LIFETIME: Duration = Duration::from_secs(4);

/// Ten milliseconds of work on the server in one round trip.
const QUERY: &str = "select pg_sleep(0.01)";

/// How a pool moves onto a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Our pool with its defaults.
    Perennial,
    /// Our pool, and a probe logs in with each certificate before it is published.
    Probed,
    /// Stock bb8 with a manager as a service would write it.
    Stock(Retire),
}

/// When a stock pool closes an old connection; it opens the replacement afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// At its return: `has_broken` reports it.
    AtReturn,
    /// At its check-out: `is_valid` fails.
    AtCheckOut,
    /// At [`MAX_LIFETIME`], bb8's own `max_lifetime`.
    ByAge,
}

impl Contender {
    /// All contenders, ours first.
    pub const ALL: [Self; 5] = [
        Self::Perennial,
        Self::Probed,
        Self::Stock(Retire::AtReturn),
        Self::Stock(Retire::AtCheckOut),
        Self::Stock(Retire::ByAge),
    ];

    /// The name in tables and drawings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perennial => "perennial",
            Self::Probed => "perennial, probed",
            Self::Stock(Retire::AtReturn) => "broken at return",
            Self::Stock(Retire::AtCheckOut) => "invalid at check-out",
            Self::Stock(Retire::ByAge) => "max_lifetime",
        }
    }

    /// A full pool of this kind, and its certificate.
    ///
    /// # Errors
    /// The pool is not full in time.
    pub async fn pool(self, stage: &Stage, size: u32) -> anyhow::Result<(Pool, LiveCert)> {
        let config = stage.postgres().config();
        let live = match self {
            Self::Probed => {
                let builder = LiveCert::builder().gate(ConnectProbe::new(config.clone())?);
                builder.start(stage.ca.clone()).await?
            }
            _ => stage.live().await?,
        };
        let kind = match self {
            Self::Perennial | Self::Probed => {
                let builder = CertPool::builder(live.clone(), config)
                    .connection_timeout(CONNECTION_TIMEOUT)
                    .max_size(size)
                    .min_idle(size);
                Kind::Ours(builder.build().await.context("failed to fill our pool")?)
            }
            Self::Stock(retire) => {
                let census = Census::default();
                let manager = StockManager {
                    live: live.clone(),
                    config,
                    retire,
                    census: census.clone(),
                };
                let builder = bb8::Pool::builder()
                    .connection_timeout(CONNECTION_TIMEOUT)
                    .test_on_check_out(retire == Retire::AtCheckOut)
                    .max_lifetime((retire == Retire::ByAge).then_some(MAX_LIFETIME))
                    .idle_timeout(None)
                    .reaper_rate(REAPER_RATE);
                let pool = builder.max_size(size).min_idle(size).build(manager).await;
                let pool = pool.context("failed to fill a stock pool")?;
                Kind::Stock { pool, census }
            }
        };
        let pool = Pool(kind);
        eventually("the pool is full", async || {
            Ok(pool.by_generation().values().sum::<usize>() == size as usize)
        })
        .await?;
        Ok((pool, live))
    }
}

/// A pool of one contender; clones are one pool.
#[derive(Clone, Debug)]
pub struct Pool(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Ours(CertPool),
    Stock {
        pool: bb8::Pool<StockManager>,
        census: Census,
    },
}

impl Pool {
    /// The number of connections by the generation of their certificate.
    pub fn by_generation(&self) -> BTreeMap<u64, usize> {
        match &self.0 {
            Kind::Ours(pool) => pool.status().by_generation,
            Kind::Stock { census, .. } => census.by_generation(),
        }
    }

    /// One request: a check-out and a query of 10 ms.
    ///
    /// # Errors
    /// The check-out or the query fails: the error and its causes in one line.
    pub async fn request(&self) -> Result<(), String> {
        match &self.0 {
            Kind::Ours(pool) => {
                let client = pool.get().await.map_err(text)?;
                query(&client).await
            }
            Kind::Stock { pool, .. } => {
                let client = pool.get().await.map_err(text)?;
                query(&client).await
            }
        }
    }
}

async fn query(client: &Client) -> Result<(), String> {
    client.simple_query(QUERY).await.map(drop).map_err(text)
}

fn text(error: impl std::error::Error + 'static) -> String {
    with_causes(&error).to_string()
}

/// The manager that a service writes without us; unlike `bb8-postgres` it sends no ping at check-out.
#[derive(Debug)]
struct StockManager {
    live: LiveCert,
    config: Config,
    retire: Retire,
    census: Census,
}

/// Counts the open connections by the generation of their certificate.
#[derive(Clone, Debug, Default)]
struct Census(Arc<Mutex<BTreeMap<u64, usize>>>);

impl Census {
    fn by_generation(&self) -> BTreeMap<u64, usize> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is counted until it is dropped.
struct CountedClient {
    client: Client,
    generation: u64,
    census: Census,
}

impl Deref for CountedClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for CountedClient {
    fn drop(&mut self) {
        let mut census = self.census.lock();
        if let Some(count) = census.get_mut(&self.generation) {
            *count -= 1;
        }
        census.retain(|_, count| *count > 0);
    }
}

impl StockManager {
    fn is_old(&self, connection: &CountedClient) -> bool {
        let current = self.live.current();
        current.is_ok_and(|snapshot| connection.generation < snapshot.generation())
    }
}

/// Why a stock pool cannot provide a connection.
#[derive(Debug, thiserror::Error)]
enum StockError {
    #[error("no valid certificate")]
    Certificate(#[from] Unavailable),
    #[error("failed to connect to postgres")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("the connection's certificate is old")]
    Old,
}

impl ManageConnection for StockManager {
    type Connection = CountedClient;
    type Error = StockError;

    async fn connect(&self) -> Result<CountedClient, StockError> {
        let snapshot = self.live.current()?;
        let client = connect(&self.config, static_tls(&snapshot)).await?;
        let generation = snapshot.generation();
        *self.census.lock().entry(generation).or_default() += 1;
        Ok(CountedClient {
            client,
            generation,
            census: self.census.clone(),
        })
    }

    async fn is_valid(&self, connection: &mut CountedClient) -> Result<(), StockError> {
        if self.retire == Retire::AtCheckOut && self.is_old(connection) {
            return Err(StockError::Old);
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut CountedClient) -> bool {
        connection.is_closed() || self.retire == Retire::AtReturn && self.is_old(connection)
    }
}
