//! What a service does with a pool; each kind of work checks its own result.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use perennial::LiveCert;
use perennial_postgres::{CertConnectionManager, PgTls, bb8};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client, Config};

/// Far more than the buffers on the way hold: the backend is busy until they are read.
const ROWS: &str = "select repeat('x', 200) from generate_series(1, 20000)";

/// How many rows are read in one go.
const GULP: usize = 1_000;

/// Between two short queries of one task, two gulps of rows, and two notifications.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a notification may be on its way.
const SOON: Duration = Duration::from_secs(10);

type Pool = bb8::Pool<CertConnectionManager>;

/// What a task does again and again.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Query,
    Transaction,
    Stream,
}

/// How many tasks do each kind.
const TASKS: [(Kind, usize); 3] = [(Kind::Query, 6), (Kind::Transaction, 3), (Kind::Stream, 2)];

/// How often each kind of work was done, and what failed.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By kind.
    pub done: BTreeMap<&'static str, u64>,
    /// Failures, and how often each was seen.
    pub failures: BTreeMap<String, u64>,
}

/// Work under way.
#[derive(Debug)]
pub struct Work {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    tasks: JoinSet<()>,
}

impl Work {
    /// Starts it on this pool; `config` is for the LISTEN, which has a connection of its own.
    ///
    /// # Errors
    /// The LISTEN cannot be set up.
    pub async fn start(pool: &Pool, live: &LiveCert, config: &Config) -> anyhow::Result<Self> {
        let mut work = Self {
            stop: Arc::default(),
            counts: Arc::default(),
            tasks: JoinSet::new(),
        };
        for (kind, count) in TASKS {
            for _ in 0..count {
                let (pool, stop, counts) = work.shared(pool);
                work.tasks.spawn(async move {
                    let mut round = 0;
                    while !stop.load(Ordering::Relaxed) {
                        round += 1;
                        let outcome = once(kind, &pool, round).await;
                        lock(&counts).note(kind.name(), outcome);
                        tokio::time::sleep(PAUSE).await;
                    }
                });
            }
        }
        let mut listener = Listener::start(live, config).await?;
        let (pool, stop, counts) = work.shared(pool);
        work.tasks.spawn(async move {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let outcome = listener.notify(&pool, round).await;
                lock(&counts).note("notifications", outcome);
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(work)
    }

    fn shared(&self, pool: &Pool) -> (Pool, Arc<AtomicBool>, Arc<Mutex<Counts>>) {
        (
            pool.clone(),
            Arc::clone(&self.stop),
            Arc::clone(&self.counts),
        )
    }

    /// Begins nothing more, waits for what is under way, and tells all.
    ///
    /// # Errors
    /// A task has panicked, so that its work is missing.
    pub async fn finish(mut self) -> anyhow::Result<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(lock(&self.counts).clone())
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Query => "queries",
            Self::Transaction => "transactions",
            Self::Stream => "streams",
        }
    }
}

impl Counts {
    fn note(&mut self, kind: &'static str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => *self.done.entry(kind).or_default() += 1,
            Err(error) => {
                let failure = format!("{kind}: {error:#}");
                *self.failures.entry(failure).or_default() += 1;
            }
        }
    }

    /// All failures together.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

async fn once(kind: Kind, pool: &Pool, round: i64) -> anyhow::Result<()> {
    match kind {
        Kind::Query => query(pool, round).await,
        Kind::Transaction => transaction(pool, round).await,
        Kind::Stream => stream(pool, round).await,
    }
}

async fn query(pool: &Pool, round: i64) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let row = client.query_one("select $1::int8 + 1", &[&round]).await?;
    ensure!(row.try_get::<_, i64>(0)? == round + 1, "another's answer");
    Ok(())
}

/// From none to three seconds, with state that only its own session has.
async fn transaction(pool: &Pool, round: i64) -> anyhow::Result<()> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("create temporary table mine (n int8) on commit drop")
        .await?;
    let insert = "insert into mine values ($1)";
    transaction.execute(insert, &[&round]).await?;
    let seconds = (round % 4) as f64;
    let wait = "select pg_sleep($1)::text";
    transaction.query_one(wait, &[&seconds]).await?;
    let row = transaction.query_one("select n from mine", &[]).await?;
    ensure!(row.try_get::<_, i64>(0)? == round, "another's session");
    transaction.commit().await?;
    Ok(())
}

/// Every other time the connection goes back before its rows are read.
async fn stream(pool: &Pool, round: i64) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let parameters: [i32; 0] = [];
    let rows = client.query_raw(ROWS, parameters).await?;
    let held = (round % 2 == 0).then_some(client);
    let mut rows = pin!(rows);
    let mut seen = 0;
    while let Some(row) = rows.try_next().await? {
        ensure!(row.try_get::<_, &str>(0)?.len() == 200, "a torn row");
        seen += 1;
        if seen % GULP == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    drop(held);
    ensure!(seen == 20_000, "{seen} rows of 20000");
    Ok(())
}

/// A LISTEN on a connection of its own, which stays on the certificate that it began with.
struct Listener {
    _client: Client,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    async fn start(live: &LiveCert, config: &Config) -> anyhow::Result<Self> {
        let connected = config.connect(PgTls::new(live.clone())).await;
        let (client, mut connection) = connected.context("the LISTEN's connection")?;
        let (sender, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(|context| connection.poll_message(context));
            // Ends with the client. After an error nothing more is heard, and that is noticed.
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message
                    && sender.send(notification.payload().to_owned()).is_err()
                {
                    return;
                }
            }
        });
        client.batch_execute("listen soak").await?;
        Ok(Self {
            _client: client,
            heard,
        })
    }

    /// Says something through the pool and waits until it is heard.
    async fn notify(&mut self, pool: &Pool, round: i64) -> anyhow::Result<()> {
        let client = pool.get().await?;
        let said = round.to_string();
        client
            .query_one("select pg_notify('soak', $1)::text", &[&said])
            .await?;
        drop(client);
        let heard = tokio::time::timeout(SOON, self.heard.recv()).await;
        let heard = heard
            .context("not heard")?
            .context("the LISTEN has ended")?;
        ensure!(heard == said, "said {said}, heard {heard}");
        Ok(())
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
