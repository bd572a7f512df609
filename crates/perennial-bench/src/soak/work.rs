//! What a service does with a pool; each kind of work checks its own result.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::TryStreamExt;
use perennial::{LiveCert, Rotations};
use perennial_postgres::{CertConnectionManager, Notifications, Notified, PgConnection, bb8};
use tokio::sync::watch;
use tokio::task::JoinSet;

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
    /// What came of the LISTEN.
    pub heard: Heard,
}

/// What came of a LISTEN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// Notifications.
    pub heard: u64,
    /// Those that were lost while the listener moved onto a new certificate.
    pub excused: u64,
    /// How often it did so.
    pub refreshes: u64,
}

/// Work under way.
#[derive(Debug)]
pub struct Work {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    tasks: JoinSet<()>,
}

impl Work {
    /// Starts it on this pool; `manager` is for the LISTEN, which has a connection of its own.
    ///
    /// # Errors
    /// The LISTEN cannot be set up.
    pub async fn start(
        pool: &Pool,
        manager: &CertConnectionManager,
        live: &LiveCert,
    ) -> anyhow::Result<Self> {
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
        let (said, to_hear) = watch::channel(Said::default());
        let mut listener = Listener::start(manager, live, to_hear).await?;
        let (pool, stop, counts) = work.shared(pool);
        work.tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let outcome = say(&pool, &said).await;
                lock(&counts).note("notifications", outcome);
                tokio::time::sleep(PAUSE).await;
            }
        });
        let counts = Arc::clone(&work.counts);
        work.tasks.spawn(async move {
            let outcome = listener.listen().await;
            let mut counts = lock(&counts);
            counts.heard = listener.heard;
            counts.note("listen", outcome);
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

/// From none to a second, less than any old certificate has left; with state that only its own session has.
async fn transaction(pool: &Pool, round: i64) -> anyhow::Result<()> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("create temporary table mine (n int8) on commit drop")
        .await?;
    let insert = "insert into mine values ($1)";
    transaction.execute(insert, &[&round]).await?;
    let seconds = (round % 3) as f64 / 2.0;
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

/// Which numbers were said: each is begun, then the server has it.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    begun: u64,
    done: u64,
}

/// Says one number after the other through the pool.
async fn say(pool: &Pool, said: &watch::Sender<Said>) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let number = said.borrow().begun + 1;
    said.send_modify(|said| said.begun = number);
    let notify = "select pg_notify('soak', $1)::text";
    client.query_one(notify, &[&number.to_string()]).await?;
    said.send_modify(|said| said.done = number);
    Ok(())
}

/// A LISTEN on a dedicated connection, which moves onto each new certificate.
///
/// Each number must be heard, once and in order. Excused are only those that were under way between
/// the beginning of a refresh and the end of the LISTEN after it.
struct Listener {
    connection: PgConnection,
    notifications: Notifications,
    rotations: Rotations,
    said: watch::Receiver<Said>,
    /// The number to be heard next.
    next: u64,
    /// Up to here a number may have been lost.
    excused: u64,
    heard: Heard,
}

impl Listener {
    async fn start(
        manager: &CertConnectionManager,
        live: &LiveCert,
        said: watch::Receiver<Said>,
    ) -> anyhow::Result<Self> {
        let connection = bb8::ManageConnection::connect(manager).await;
        let connection = connection.context("the LISTEN's connection")?;
        let notifications = connection.notifications();
        connection.batch_execute("listen soak").await?;
        Ok(Self {
            connection,
            notifications,
            rotations: live.rotations(),
            said,
            next: 1,
            excused: 0,
            heard: Heard::default(),
        })
    }

    /// Listens until nothing more is said, and all of it was heard.
    async fn listen(&mut self) -> anyhow::Result<()> {
        let mut over = false;
        while !over || self.is_owed(self.said.borrow().done) {
            let something = async {
                tokio::select! {
                    notified = self.notifications.next() => Next::Notified(notified),
                    Some(_) = self.rotations.next() => Next::Rotated,
                    more = self.said.changed(), if !over => Next::Said { over: more.is_err() },
                }
            };
            match tokio::time::timeout(SOON, something).await {
                Ok(Next::Notified(notified)) => self.hear(notified)?,
                Ok(Next::Rotated) => self.refresh().await?,
                Ok(Next::Said { over: now }) => over = now,
                Err(_elapsed) => bail!("{} was not heard", self.next),
            }
        }
        let done = self.said.borrow().done;
        self.skip_to(done + 1);
        Ok(())
    }

    async fn refresh(&mut self) -> anyhow::Result<()> {
        let before = self.said.borrow().done;
        while self.is_owed(before) {
            let notified = tokio::time::timeout(SOON, self.notifications.next()).await;
            self.hear(notified.with_context(|| format!("{} was not heard", self.next))?)?;
        }
        self.connection.refresh().await.context("refresh")?;
        self.notifications = self.connection.notifications();
        self.connection.batch_execute("listen soak").await?;
        self.excused = self.said.borrow().begun;
        self.heard.refreshes += 1;
        Ok(())
    }

    fn hear(&mut self, notified: Option<Notified>) -> anyhow::Result<()> {
        let number = match notified.context("the LISTEN has ended")? {
            Notified::Notification(notification) => notification.payload().parse()?,
            other => bail!("{other:?}"),
        };
        ensure!(
            number >= self.next,
            "{number} was heard after {}",
            self.next
        );
        let (next, excused) = (self.next, self.excused);
        let in_order = number == next || number <= excused + 1;
        ensure!(
            in_order,
            "{next} was lost: heard {number}, excused to {excused}"
        );
        self.skip_to(number);
        self.next = number + 1;
        self.heard.heard += 1;
        Ok(())
    }

    /// Whether this number or one before it has yet to be heard.
    fn is_owed(&self, number: u64) -> bool {
        self.next <= number && self.excused < number
    }

    fn skip_to(&mut self, number: u64) {
        self.heard.excused += number.saturating_sub(self.next);
    }
}

/// What happens to a listener.
enum Next {
    Notified(Option<Notified>),
    Rotated,
    Said { over: bool },
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
