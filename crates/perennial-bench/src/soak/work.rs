//! The work of a service with a pool; each kind of work checks its own result.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::TryStreamExt;
use perennial::{Events, LiveCert, Rotations};
use perennial_postgres::{CertPool, Notified, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Far more rows than fit into the buffers: the backend stays busy until the client has read them.
const ROWS: &str = "select repeat('x', 200) from generate_series(1, 20000)";

/// Rows that a stream reads between two pauses.
const ROWS_PER_PAUSE: usize = 1_000;

/// Pause between two rounds of a task, between two parts of a stream, and between two notifications.
const PAUSE: Duration = Duration::from_millis(10);

/// Time limit for the delivery of a notification.
const SOON: Duration = Duration::from_secs(10);

/// What a task does repeatedly.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Query,
    Transaction,
    Stream,
}

/// The number of tasks of each kind.
const TASKS: [(Kind, usize); 3] = [(Kind::Query, 6), (Kind::Transaction, 3), (Kind::Stream, 2)];

/// The amount of each kind of work, and the failures.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By kind.
    pub done: BTreeMap<&'static str, u64>,
    /// Different failures, and how often each occurred.
    pub failures: BTreeMap<String, u64>,
    /// The results of the LISTEN.
    pub listened: Listened,
}

/// The results of a LISTEN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listened {
    /// Notifications received.
    pub received: u64,
    /// Notifications lost while the listener moved onto a new certificate, which is allowed.
    pub lost: u64,
    /// How often the listener moved onto a new certificate.
    pub refreshes: u64,
}

/// The running work.
#[derive(Debug)]
pub struct Work {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    tasks: JoinSet<()>,
}

impl Work {
    /// Starts the work on this pool; the LISTEN uses a dedicated connection.
    ///
    /// # Errors
    /// Setting up the LISTEN fails.
    pub async fn start(pool: &CertPool, live: &LiveCert) -> anyhow::Result<Self> {
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
        let (sender, sent) = watch::channel(Sent::default());
        let mut listener = Listener::start(pool, live, sent).await?;
        let (pool, stop, counts) = work.shared(pool);
        work.tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let outcome = notify(&pool, &sender).await;
                lock(&counts).note("notifications", outcome);
                tokio::time::sleep(PAUSE).await;
            }
        });
        let counts = Arc::clone(&work.counts);
        work.tasks.spawn(async move {
            let outcome = listener.listen().await;
            let mut counts = lock(&counts);
            counts.listened = listener.results;
            counts.note("listen", outcome);
        });
        Ok(work)
    }

    fn shared(&self, pool: &CertPool) -> (CertPool, Arc<AtomicBool>, Arc<Mutex<Counts>>) {
        (
            pool.clone(),
            Arc::clone(&self.stop),
            Arc::clone(&self.counts),
        )
    }

    /// Starts no more work, waits for the running work, and returns the counts.
    ///
    /// # Errors
    /// A task panicked, so its work is missing.
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

    /// The number of failures.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

async fn once(kind: Kind, pool: &CertPool, round: i64) -> anyhow::Result<()> {
    match kind {
        Kind::Query => query(pool, round).await,
        Kind::Transaction => transaction(pool, round).await,
        Kind::Stream => stream(pool, round).await,
    }
}

async fn query(pool: &CertPool, round: i64) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let row = client.query_one("select $1::int8 + 1", &[&round]).await?;
    ensure!(
        row.try_get::<_, i64>(0)? == round + 1,
        "the answer to another query"
    );
    Ok(())
}

/// Takes up to a second, less than the remaining lifetime of any old certificate; uses state of its own session.
async fn transaction(pool: &CertPool, round: i64) -> anyhow::Result<()> {
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
    ensure!(
        row.try_get::<_, i64>(0)? == round,
        "the state of another session"
    );
    transaction.commit().await?;
    Ok(())
}

/// In every other round the connection is returned before its rows are read.
async fn stream(pool: &CertPool, round: i64) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let parameters: [i32; 0] = [];
    let rows = client.query_raw(ROWS, parameters).await?;
    let held = (round % 2 == 0).then_some(client);
    let mut rows = pin!(rows);
    let mut seen = 0;
    while let Some(row) = rows.try_next().await? {
        ensure!(row.try_get::<_, &str>(0)?.len() == 200, "a damaged row");
        seen += 1;
        if seen % ROWS_PER_PAUSE == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    drop(held);
    ensure!(seen == 20_000, "{seen} of 20000 rows");
    Ok(())
}

/// The numbers sent so far: each is first begun, then confirmed by the server.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    begun: u64,
    confirmed: u64,
}

/// Sends the next number through the pool.
async fn notify(pool: &CertPool, sent: &watch::Sender<Sent>) -> anyhow::Result<()> {
    let client = pool.get().await?;
    let number = sent.borrow().begun + 1;
    sent.send_modify(|sent| sent.begun = number);
    let notify = "select pg_notify('soak', $1)::text";
    client.query_one(notify, &[&number.to_string()]).await?;
    sent.send_modify(|sent| sent.confirmed = number);
    Ok(())
}

/// A LISTEN on a dedicated connection, which moves onto each new certificate.
///
/// It must receive each number once and in order. Only numbers that were in flight between the
/// beginning of a refresh and the end of the LISTEN after it may be lost.
struct Listener {
    connection: PgConnection,
    notifications: Events<Notified>,
    rotations: Rotations,
    sent: watch::Receiver<Sent>,
    /// The next expected number.
    next: u64,
    /// Numbers up to this one may be lost.
    may_be_lost: u64,
    results: Listened,
}

impl Listener {
    async fn start(
        pool: &CertPool,
        live: &LiveCert,
        sent: watch::Receiver<Sent>,
    ) -> anyhow::Result<Self> {
        let connection = pool.dedicated_connection().await;
        let connection = connection.context("failed to connect for the LISTEN")?;
        let notifications = connection.notifications();
        connection.batch_execute("listen soak").await?;
        Ok(Self {
            connection,
            notifications,
            rotations: live.subscribe(),
            sent,
            next: 1,
            may_be_lost: 0,
            results: Listened::default(),
        })
    }

    /// Listens until the sender has ended and all its numbers were received.
    async fn listen(&mut self) -> anyhow::Result<()> {
        let mut over = false;
        while !over || self.is_pending(self.sent.borrow().confirmed) {
            let next = async {
                tokio::select! {
                    notified = self.notifications.next() => Next::Notified(notified),
                    Some(_) = self.rotations.next() => Next::Rotated,
                    more = self.sent.changed(), if !over => Next::Sent { over: more.is_err() },
                }
            };
            match tokio::time::timeout(SOON, next).await {
                Ok(Next::Notified(notified)) => self.receive(notified)?,
                Ok(Next::Rotated) => self.refresh().await?,
                Ok(Next::Sent { over: now }) => over = now,
                Err(_) => bail!("{} was not received", self.next),
            }
        }
        let confirmed = self.sent.borrow().confirmed;
        self.skip_to(confirmed + 1);
        Ok(())
    }

    async fn refresh(&mut self) -> anyhow::Result<()> {
        let before = self.sent.borrow().confirmed;
        while self.is_pending(before) {
            let notified = tokio::time::timeout(SOON, self.notifications.next()).await;
            self.receive(notified.with_context(|| format!("{} was not received", self.next))?)?;
        }
        self.connection.refresh().await.context("refresh failed")?;
        self.notifications = self.connection.notifications();
        self.connection.batch_execute("listen soak").await?;
        self.may_be_lost = self.sent.borrow().begun;
        self.results.refreshes += 1;
        Ok(())
    }

    fn receive(&mut self, notified: Option<Notified>) -> anyhow::Result<()> {
        let number = match notified.context("the LISTEN ended")? {
            Notified::Notification(notification) => notification.payload().parse()?,
            other => bail!("{other:?}"),
        };
        ensure!(
            number >= self.next,
            "{number} was received instead of {}",
            self.next
        );
        let (next, may_be_lost) = (self.next, self.may_be_lost);
        let in_order = number == next || number <= may_be_lost + 1;
        ensure!(
            in_order,
            "{next} was lost: received {number}, only numbers up to {may_be_lost} may be lost"
        );
        self.skip_to(number);
        self.next = number + 1;
        self.results.received += 1;
        Ok(())
    }

    /// Whether this number or an earlier one must still arrive.
    fn is_pending(&self, number: u64) -> bool {
        self.next <= number && self.may_be_lost < number
    }

    fn skip_to(&mut self, number: u64) {
        self.results.lost += number.saturating_sub(self.next);
    }
}

/// What a listener waits for.
enum Next {
    Notified(Option<Notified>),
    Rotated,
    Sent { over: bool },
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
