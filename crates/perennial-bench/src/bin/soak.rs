//! A pool at work with short-lived certificates, for any length of time.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Parser;
use perennial::LiveCert;
use perennial_bench::soak::{Counts, Watch, Work};
use perennial_bench::stage::{Stage, eventually};
use perennial_postgres::{CertPool, RetireReason};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_postgres::Client;

/// Lifetime of each certificate.
const LIFETIME: Duration = Duration::from_secs(8);

/// Connections in the pool.
const POOL: u32 = 20;

/// Interval between two queries of the server's sessions.
const POLL: Duration = Duration::from_millis(250);

/// Limits of growth: less than a leak in two rotations would cause.
const KIBIBYTES: f64 = 2_048.0;
const TASKS: f64 = 8.0;
const FILES: f64 = 8.0;

/// Run queries, transactions, row streams and a LISTEN on a pool of 20, with certificates of 8 s.
///
/// Fails if any work fails, if Postgres does not see every certificate, if a connection dies or is in
/// use after its certificate has expired, or if memory, tasks or file descriptors grow.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// How long to run
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    run_for: Duration,

    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// The whole run. Scripts rely on the field names.
#[derive(Serialize)]
struct Summary {
    seconds: f64,
    postgres: String,
    /// Certificates after the first.
    rotations: usize,
    queries: u64,
    transactions: u64,
    streams: u64,
    notifications: u64,
    heard: u64,
    /// Notifications lost while the listener moved onto a new certificate, which is allowed.
    lost_while_refreshing: u64,
    refreshes: u64,
    failed: u64,
    /// Certificates that Postgres never saw.
    serials_unseen: usize,
    /// The most sessions of the app at one moment, as reported by Postgres.
    most_sessions: usize,
    /// The most connections in use after their certificate's expiry at one moment.
    most_expired_in_use: usize,
    /// Connections that were closed by the server or did not answer.
    dead: u64,
    memory_growth_kib: f64,
    task_growth: f64,
    file_growth: f64,
    /// Why the run failed; empty if it succeeded.
    failures: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let summary = run(args.run_for).await?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(out, "{}", line(&summary))?;
    }
    Ok(if summary.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run(run_for: Duration) -> anyhow::Result<Summary> {
    let stage = Stage::set(LIFETIME).await?;
    let live = stage.live().await?;
    let issued = Issued::follow(&live);
    let pool = CertPool::builder(live.clone(), stage.postgres().config())
        .max_size(POOL)
        .min_idle(POOL)
        .build()
        .await?;
    let mut witness = Witness::default();

    let work = Work::start(&pool, &live).await?;
    let began = Instant::now();
    let mut watch = Watch::default();
    let mut most_expired = 0;
    let mut polls = tokio::time::interval(POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while began.elapsed() < run_for {
        polls.tick().await;
        witness.query_sessions(stage.admin()).await?;
        watch.measure()?;
        most_expired = most_expired.max(pool.status().expired_in_use);
    }
    let counts = work.finish().await?;
    let growth = watch.growth();
    // The newest certificate may have been published just now; the pool moves onto it even without work.
    let all_seen = eventually("Postgres has seen every certificate", async || {
        witness.query_sessions(stage.admin()).await?;
        Ok(issued.unseen(&witness) == 0)
    })
    .await;
    let retired = pool.status().retired;
    let done = |kind| counts.done.get(kind).copied().unwrap_or_default();
    let mut summary = Summary {
        seconds: began.elapsed().as_secs_f64(),
        postgres: stage.postgres().version().to_owned(),
        rotations: issued.count().saturating_sub(1),
        queries: done("queries"),
        transactions: done("transactions"),
        streams: done("streams"),
        notifications: done("notifications"),
        heard: counts.listened.received,
        lost_while_refreshing: counts.listened.lost,
        refreshes: counts.listened.refreshes,
        failed: counts.failed(),
        // Do not count again after a success: another certificate may have been published since then.
        serials_unseen: all_seen.map_or_else(|_| issued.unseen(&witness), |()| 0),
        most_sessions: witness.most,
        most_expired_in_use: most_expired,
        dead: retired
            .get(&RetireReason::Dead)
            .copied()
            .unwrap_or_default(),
        memory_growth_kib: growth.kibibytes,
        task_growth: growth.tasks,
        file_growth: growth.files,
        failures: Vec::new(),
    };
    summary.failures = failures(&summary, &counts);
    Ok(summary)
}

fn failures(summary: &Summary, counts: &Counts) -> Vec<String> {
    let mut failures: Vec<_> = (counts.failures.iter())
        .map(|(failure, times)| format!("{times} × {failure}"))
        .collect();
    let Summary {
        rotations,
        serials_unseen,
        ..
    } = summary;
    for (wrong, failure) in [
        (*rotations < 2, format!("only {rotations} rotations")),
        (
            [
                summary.queries,
                summary.transactions,
                summary.streams,
                summary.notifications,
                summary.heard,
                summary.refreshes,
            ]
            .contains(&0),
            "one kind of work was never done".to_owned(),
        ),
        (
            *serials_unseen > 0,
            format!("Postgres did not see {serials_unseen} certificates"),
        ),
        (
            summary.heard + summary.lost_while_refreshing != summary.notifications,
            "received and lost notifications do not add up to the sent ones".to_owned(),
        ),
        (
            summary.most_expired_in_use > 0,
            "a connection was in use after its certificate had expired".to_owned(),
        ),
        (
            summary.dead > 0,
            format!("{} connections died", summary.dead),
        ),
        (
            summary.memory_growth_kib > KIBIBYTES,
            "memory grew".to_owned(),
        ),
        (summary.task_growth > TASKS, "tasks grew".to_owned()),
        (summary.file_growth > FILES, "open files grew".to_owned()),
    ] {
        if wrong {
            failures.push(failure);
        }
    }
    failures
}

/// The whole run on one line.
fn line(summary: &Summary) -> String {
    let mut line = format!(
        "{:.0} s on PostgreSQL {}: {} rotations, {} queries, {} transactions, {} streams, {} \
         notifications ({} received, {} lost in {} refreshes), {} failed; at most {} sessions; growth {:.0} KiB, {} tasks, {} files",
        summary.seconds,
        summary.postgres,
        summary.rotations,
        summary.queries,
        summary.transactions,
        summary.streams,
        summary.notifications,
        summary.heard,
        summary.lost_while_refreshing,
        summary.refreshes,
        summary.failed,
        summary.most_sessions,
        summary.memory_growth_kib,
        summary.task_growth,
        summary.file_growth,
    );
    if !summary.failures.is_empty() {
        line += &format!("; FAILED: {}", summary.failures.join("; "));
    }
    line
}

/// The serial numbers of all published certificates, in decimal as in `pg_stat_ssl`.
#[derive(Clone, Default)]
struct Issued(Arc<Mutex<BTreeSet<String>>>);

impl Issued {
    fn follow(live: &LiveCert) -> Self {
        let issued = Self::default();
        let mut rotations = live.subscribe();
        let kept = issued.clone();
        tokio::spawn(async move {
            while let Some(snapshot) = rotations.next().await {
                kept.lock().insert(snapshot.serial().to_decimal());
            }
        });
        issued
    }

    fn count(&self) -> usize {
        self.lock().len()
    }

    fn unseen(&self, witness: &Witness) -> usize {
        self.lock().difference(&witness.serials).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks Postgres which certificates the app's sessions use.
#[derive(Default)]
struct Witness {
    serials: BTreeSet<String>,
    /// The most sessions at one moment.
    most: usize,
}

impl Witness {
    async fn query_sessions(&mut self, admin: &Client) -> anyhow::Result<()> {
        let query = "select s.client_serial::text from pg_stat_activity a
            join pg_stat_ssl s using (pid) where a.usename = 'app' and s.client_serial is not null";
        let rows = admin.query(query, &[]).await?;
        self.most = self.most.max(rows.len());
        for row in rows {
            self.serials.insert(row.try_get(0)?);
        }
        Ok(())
    }
}
