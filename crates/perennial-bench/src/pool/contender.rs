use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use perennial::{LiveCert, with_causes};
use perennial_postgres::{CertConnectionManager, ConnectProbe, bb8};
use tokio_postgres::Client;

use super::stock::{Census, LIFETIME, Retire, StockManager};
use crate::stage::{Stage, eventually};

/// How long a request waits for a connection, before it has failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often bb8 looks for connections that are too old; its default is 30 s.
const REAPER: Duration = Duration::from_millis(250);

/// Ten milliseconds of work on the server, in one round trip.
const QUERY: &str = "select pg_sleep(0.01)";

/// How a pool gets onto a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Ours, as it is by default.
    Perennial,
    /// Ours, and each certificate logs in once before it is published.
    Probed,
    /// Stock bb8, on a manager of the service's own.
    Stock(Retire),
}

impl Contender {
    /// All of them, ours first.
    pub const ALL: [Self; 5] = [
        Self::Perennial,
        Self::Probed,
        Self::Stock(Retire::AtReturn),
        Self::Stock(Retire::AtCheckOut),
        Self::Stock(Retire::ByAge),
    ];

    /// What tables and pictures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perennial => "perennial",
            Self::Probed => "perennial, probed",
            Self::Stock(Retire::AtReturn) => "broken at return",
            Self::Stock(Retire::AtCheckOut) => "invalid at check-out",
            Self::Stock(Retire::ByAge) => "max_lifetime",
        }
    }

    /// A full pool of it on this stage, and its certificate.
    ///
    /// # Errors
    /// It cannot be filled.
    pub async fn pool(self, stage: &Stage, size: u32) -> anyhow::Result<(Pool, LiveCert)> {
        let config = stage.postgres().config();
        let live = match self {
            Self::Probed => {
                let builder = LiveCert::builder().gate(ConnectProbe::new(config.clone())?);
                builder.start(stage.ca.clone()).await?
            }
            _ => stage.live().await?,
        };
        let pool = match self {
            Self::Perennial | Self::Probed => {
                let manager = CertConnectionManager::new(live.clone(), config)?;
                let builder = manager.pool_builder();
                let builder = builder.connection_timeout(PATIENCE);
                let builder = builder.max_size(size).min_idle(size);
                let pool = builder.build(manager.clone()).await;
                Made::Ours {
                    pool: pool.context("our pool")?,
                    manager,
                }
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
                    .connection_timeout(PATIENCE)
                    .test_on_check_out(retire == Retire::AtCheckOut)
                    .max_lifetime((retire == Retire::ByAge).then_some(LIFETIME))
                    .idle_timeout(None)
                    .reaper_rate(REAPER);
                let pool = builder.max_size(size).min_idle(size).build(manager).await;
                Made::Stock {
                    pool: pool.context("a stock pool")?,
                    census,
                }
            }
        };
        let pool = Pool(pool);
        eventually("the pool is full", async || {
            Ok(pool.by_generation().values().sum::<usize>() == size as usize)
        })
        .await?;
        Ok((pool, live))
    }
}

/// A pool of one contender; clones are one pool.
#[derive(Clone, Debug)]
pub struct Pool(Made);

/// A pool, and what tells of its connections.
#[derive(Clone, Debug)]
enum Made {
    Ours {
        pool: bb8::Pool<CertConnectionManager>,
        manager: CertConnectionManager,
    },
    Stock {
        pool: bb8::Pool<StockManager>,
        census: Census,
    },
}

impl Pool {
    /// Connections by the generation of their certificate.
    pub fn by_generation(&self) -> BTreeMap<u64, usize> {
        match &self.0 {
            Made::Ours { manager, .. } => manager.status().by_generation,
            Made::Stock { census, .. } => census.by_generation(),
        }
    }

    /// One request: a connection and a query of 10 ms.
    ///
    /// # Errors
    /// What it failed of, with its causes.
    pub async fn request(&self) -> Result<(), String> {
        match &self.0 {
            Made::Ours { pool, manager } => {
                let got = pool.get().await;
                let client =
                    got.map_err(|error| with_causes(&manager.explain(error)).to_string())?;
                query(&client).await
            }
            Made::Stock { pool, .. } => {
                let got = pool.get().await;
                let client = got.map_err(|error| with_causes(&error).to_string())?;
                query(&client).await
            }
        }
    }
}

async fn query(client: &Client) -> Result<(), String> {
    let answer = client.simple_query(QUERY).await;
    answer
        .map(drop)
        .map_err(|error| with_causes(&error).to_string())
}
