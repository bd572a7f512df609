//! The process with the pools: certificates, pools and load, and a report of everything that fails.

use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use perennial::{CertSource, LiveCert, RenewalSchedule, TlsSettings, with_causes};
use perennial_postgres::{CertPool, ConnectError};
use perennial_vault::{Auth, Secret, Vault};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config};

use super::report::{Moment, Report, Setup};

/// The lifetime of each certificate.
pub const LIFETIME: Duration = Duration::from_secs(20);

/// The outage of OpenBao that the schedule survives: an election of a busy cluster and the longest fault.
pub const SURVIVED: Duration = Duration::from_secs(10);

/// How long one node may take to answer: a tenth of the lifetime, so that all of them can be asked in time.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long removed roots stay trusted: longer than every pool and both servers take to change.
const ROOTS_OVERLAP: Duration = Duration::from_secs(120);

/// Connections of each pool.
const POOL: u32 = 3;

/// The pause between two queries of a pool.
const PAUSE: Duration = Duration::from_millis(60);

/// Every so many queries one takes [`LONG_QUERY`].
const LONG_EVERY: u64 = 10;

/// The longest query, in seconds.
const LONG_QUERY: f64 = 0.2;

/// The pause between two connects of a task's own: they show at once what Postgres refuses.
const CONNECT_PAUSE: Duration = Duration::from_secs(3);

/// How often the beginning of the oldest query under way is reported.
const HEARTBEAT: Duration = Duration::from_millis(50);

/// A query that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the load that the file describes until standard input is closed.
///
/// # Errors
/// A first certificate or a pool is not to be had within the library's own limits.
pub async fn run(setup: &Path) -> anyhow::Result<()> {
    // A stopped process must not outlive the one that would continue it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let setup: Setup = serde_json::from_slice(&std::fs::read(setup)?)?;
    let reports = Reports::start();
    let mut pools = Vec::new();
    let mut opened = JoinSet::new();
    for certificate in 0..setup.certificates {
        let (setup, reports) = (setup.clone(), reports.clone());
        opened.spawn(async move { open(&setup, certificate, reports).await });
    }
    while let Some(pool) = opened.join_next().await {
        pools.push(pool??);
    }
    reports.send(Report::Ready);

    let load = Arc::new(Load {
        reports,
        under_way: UnderWay::default(),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        connects: AtomicU64::new(0),
        longest: AtomicU64::new(0),
    });
    let mut tasks = JoinSet::new();
    for (certificate, pool) in &pools {
        tasks.spawn(Arc::clone(&load).queries(*certificate, pool.clone()));
        tasks.spawn(Arc::clone(&load).connects(*certificate, pool.clone()));
    }
    let heartbeat = tokio::spawn(Arc::clone(&load).heartbeat());
    let mut nothing = [0; 16];
    while tokio::io::stdin().read(&mut nothing).await.unwrap_or(0) > 0 {}
    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    heartbeat.abort();
    load.reports.send(Report::Done {
        answered: load.answered.load(Ordering::Relaxed),
        connects: load.connects.load(Ordering::Relaxed),
        longest: Duration::from_micros(load.longest.load(Ordering::Relaxed)),
    });
    load.reports.flush();
    Ok(())
}

/// One certificate and its pool.
async fn open(
    setup: &Setup,
    certificate: usize,
    reports: Reports,
) -> anyhow::Result<(usize, CertPool)> {
    let (first, others) = setup.addresses.split_first().context("no address")?;
    let mut vault = Vault::builder(first);
    for address in others {
        vault = vault.address(address);
    }
    let source = vault
        .ca_pem(&setup.ca_pem)
        .auth(Auth::approle(
            &setup.role_id,
            Secret::file(&setup.secret_id),
        ))
        .request_timeout(REQUEST_TIMEOUT)
        .connect_timeout(REQUEST_TIMEOUT)
        .build()?
        .pki(&setup.mount)
        .role(&setup.role)
        .common_name("app")
        .ttl(LIFETIME)
        .build()?;
    let builder = LiveCert::builder()
        .name(format!("certificate-{certificate}"))
        .tls(TlsSettings::new().roots_overlap(ROOTS_OVERLAP))
        .renewal(RenewalSchedule::new().survive_outage(SURVIVED));
    let live = match &setup.saved {
        Some(folder) => {
            let file = folder.join(format!("certificate-{certificate}"));
            builder.start(source.saved_at(file)).await?
        }
        None => builder.start(source).await?,
    };
    let first = live.current()?;
    reports.published(certificate, true, &first);
    let mut rotations = live.subscribe();
    let mut last = first.serial().clone();
    let follow = reports.clone();
    tokio::spawn(async move {
        while let Some(snapshot) = rotations.next().await {
            // New roots alone are no new certificate.
            if *snapshot.serial() != last {
                last = snapshot.serial().clone();
                follow.published(certificate, false, &snapshot);
            }
        }
    });

    let mut config = Config::new();
    for port in &setup.ports {
        config.host("127.0.0.1").port(*port);
    }
    config.user("app").dbname("app").ssl_mode(SslMode::Require);
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let pool = CertPool::builder(live, config).max_size(POOL).min_idle(2);
    Ok((certificate, pool.build().await?))
}

/// The load on all pools.
struct Load {
    reports: Reports,
    under_way: UnderWay,
    stop: AtomicBool,
    answered: AtomicU64,
    connects: AtomicU64,
    /// In microseconds.
    longest: AtomicU64,
}

impl Load {
    /// One query after the other on a pool's connections.
    async fn queries(self: Arc<Self>, certificate: usize, pool: CertPool) {
        let mut round = certificate as u64;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            let seconds = if round.is_multiple_of(LONG_EVERY) {
                LONG_QUERY
            } else {
                0.0
            };
            let query = async {
                let client = pool.get().await?;
                ask(&client, seconds).await
            };
            if self.note(certificate, Box::pin(query)).await {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One connect after the other, each with a query.
    async fn connects(self: Arc<Self>, certificate: usize, pool: CertPool) {
        // The pools take turns.
        tokio::time::sleep(CONNECT_PAUSE.mul_f64(certificate as f64 * 0.37 % 1.0)).await;
        while !self.stop.load(Ordering::Relaxed) {
            let query = async {
                let client = pool.dedicated_connection().await?;
                ask(&client, 0.0).await
            };
            if self.note(certificate, Box::pin(query)).await {
                self.connects.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// Reports which queries have ended, for ever.
    async fn heartbeat(self: Arc<Self>) {
        loop {
            let ended = self.under_way.ended_before(Moment::now);
            self.reports.send(Report::EndedBefore(ended));
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    /// Reports a failure; returns whether it succeeded.
    async fn note(
        &self,
        certificate: usize,
        query: Pin<Box<dyn Future<Output = Result<(), QueryError>> + Send + '_>>,
    ) -> bool {
        let began = self.under_way.begin(Moment::now);
        let outcome = tokio::time::timeout(LIMIT, query).await;
        let ended = Moment::now();
        self.under_way.end(began);
        let took = ended.since(began).as_micros() as u64;
        let (cause, text) = match outcome {
            Ok(Ok(())) => {
                self.longest.fetch_max(took, Ordering::Relaxed);
                return true;
            }
            Ok(Err(error)) => (error.cause(), with_causes(&error).to_string()),
            Err(_) => ("hung".to_owned(), format!("no answer within {LIMIT:?}")),
        };
        self.reports.send(Report::Failed {
            began,
            ended,
            certificate,
            cause,
            text,
        });
        false
    }
}

/// When each query and connect under way began.
#[derive(Default)]
struct UnderWay(Mutex<Vec<Moment>>);

impl UnderWay {
    /// The clock is read under the lock: no query begins before a moment that was reported already.
    fn begin(&self, now: impl Fn() -> Moment) -> Moment {
        let mut under_way = self.lock();
        let began = now();
        under_way.push(began);
        began
    }

    fn end(&self, began: Moment) {
        let mut under_way = self.lock();
        if let Some(index) = under_way.iter().position(|other| *other == began) {
            under_way.swap_remove(index);
        }
    }

    /// The latest moment before which none under way began.
    fn ended_before(&self, now: impl Fn() -> Moment) -> Moment {
        let under_way = self.lock();
        under_way.iter().min().copied().unwrap_or_else(now)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A query that a standby refuses, and that takes this many seconds.
async fn ask(client: &Client, seconds: f64) -> Result<(), QueryError> {
    let query = "select pg_current_xact_id()::text, pg_sleep($1)::text";
    client.query_one(query, &[&seconds]).await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error("no connection")]
    Connect(#[from] ConnectError),
    #[error("query failed")]
    Query(#[from] tokio_postgres::Error),
}

impl QueryError {
    fn cause(&self) -> String {
        match self {
            Self::Connect(error) => format!("connect: {}", error.class()),
            Self::Query(error) => match error.code() {
                Some(code) => format!("query: SQLSTATE {}", code.code()),
                None if error.is_closed() => "query: connection closed".to_owned(),
                None => "query: connection lost".to_owned(),
            },
        }
    }
}

/// Writes reports to standard output, in a thread of its own: a full pipe must not hold up the load.
#[derive(Clone)]
struct Reports {
    lines: Sender<Report>,
    writer: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl Reports {
    fn start() -> Self {
        let (lines, inbox) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut out = std::io::stdout();
            for report in inbox {
                let Ok(line) = serde_json::to_string(&report) else {
                    return;
                };
                if writeln!(out, "{line}").is_err() || matches!(report, Report::Done { .. }) {
                    return;
                }
            }
        });
        let writer = Arc::new(Mutex::new(Some(writer)));
        Self { lines, writer }
    }

    fn send(&self, report: Report) {
        // Fails only once the reader has gone.
        let _ = self.lines.send(report);
    }

    /// Waits until the last report is written.
    fn flush(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }

    fn published(&self, certificate: usize, is_first: bool, snapshot: &perennial::Snapshot) {
        self.send(Report::Published {
            certificate,
            is_first,
            at: Moment::now(),
            serial: snapshot.serial().to_decimal(),
            hex: snapshot.serial().to_string(),
            ahead: Moment::wall_clock_ahead(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_query_under_way_bounds_what_has_ended() {
        let at = |seconds| move || Moment::default() + Duration::from_secs(seconds);
        let load = UnderWay::default();
        assert_eq!(load.ended_before(at(1)), at(1)());
        // Two that began at one moment are two.
        let (first, second) = (load.begin(at(2)), load.begin(at(2)));
        let third = load.begin(at(3));
        for (ended, expected) in [(first, 2), (second, 3), (third, 9)] {
            assert!(load.ended_before(at(9)) <= ended);
            load.end(ended);
            assert_eq!(load.ended_before(at(9)), at(expected)());
        }
    }
}
