//! A pool at work on short certificates, for as long as one likes.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Parser;
use perennial::LiveCert;
use perennial_bench::soak::{Counts, Watch, Work};
use perennial_bench::stage::{Stage, eventually};
use perennial_postgres::{CertConnectionManager, RetireReason};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_postgres::Client;

/// Of each certificate.
const LIFE: Duration = Duration::from_secs(8);

/// Connections in the pool.
const POOL: u32 = 20;

/// How often the server is asked who is logged in.
const LOOK: Duration = Duration::from_millis(250);

/// What may be there more at the end than at the beginning: less than two rotations would leave.
const KIBIBYTES: f64 = 2_048.0;
const TASKS: f64 = 8.0;
const FILES: f64 = 8.0;

/// Let a pool of 20 work on certificates of 8 s: queries, transactions, row streams, a LISTEN.
///
/// Fails if any of it fails, if Postgres has not seen each certificate, if a connection dies or is in
/// use past its certificate's end, or if memory, tasks or file descriptors grow.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    run_for: Duration,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The whole run. Field names are a contract with scripts.
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
    /// Sessions of the app at one moment, at most, by Postgres' word.
    most_sessions: usize,
    /// Connections in use past their certificate's end at one moment, at most.
    most_expired_in_use: usize,
    /// Connections that were found closed or did not answer.
    dead: u64,
    memory_growth_kib: f64,
    task_growth: f64,
    file_growth: f64,
    /// Why this run is no success; empty if it is one.
    complaints: Vec<String>,
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
    Ok(if summary.complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run(run_for: Duration) -> anyhow::Result<Summary> {
    let stage = Stage::set(LIFE).await?;
    let live = stage.live().await?;
    let issued = Issued::follow(&live);
    let manager = CertConnectionManager::new(live.clone(), stage.postgres().config())?;
    let builder = manager.pool_builder().max_size(POOL).min_idle(POOL);
    let pool = builder.build(manager.clone()).await?;
    let mut witness = Witness::default();

    let work = Work::start(&pool, &manager, &live).await?;
    let began = Instant::now();
    let mut watch = Watch::default();
    let mut most_expired = 0;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while began.elapsed() < run_for {
        looks.tick().await;
        witness.look(stage.admin()).await?;
        watch.look()?;
        most_expired = most_expired.max(manager.status().expired_in_use);
    }
    let counts = work.finish().await?;
    let growth = watch.growth();
    // The newest may have come just now; the pool moves onto it without any work.
    let all_seen = eventually("Postgres has seen every certificate", async || {
        witness.look(stage.admin()).await?;
        Ok(issued.unseen(&witness) == 0)
    })
    .await;
    let retired = manager.status().retired;
    let done = |kind| counts.done.get(kind).copied().unwrap_or_default();
    let mut summary = Summary {
        seconds: began.elapsed().as_secs_f64(),
        postgres: stage.postgres().version().to_owned(),
        rotations: issued.count().saturating_sub(1),
        queries: done("queries"),
        transactions: done("transactions"),
        streams: done("streams"),
        notifications: done("notifications"),
        heard: counts.heard.heard,
        lost_while_refreshing: counts.heard.excused,
        refreshes: counts.heard.refreshes,
        failed: counts.failed(),
        // Never both: since then another may have come.
        serials_unseen: all_seen.map_or_else(|_late| issued.unseen(&witness), |()| 0),
        most_sessions: witness.most,
        most_expired_in_use: most_expired,
        dead: retired
            .get(&RetireReason::Dead)
            .copied()
            .unwrap_or_default(),
        memory_growth_kib: growth.kibibytes,
        task_growth: growth.tasks,
        file_growth: growth.files,
        complaints: Vec::new(),
    };
    summary.complaints = complaints(&summary, &counts);
    Ok(summary)
}

fn complaints(summary: &Summary, counts: &Counts) -> Vec<String> {
    let failures = counts.failures.iter();
    let mut complaints: Vec<_> = failures
        .map(|(failure, times)| format!("{times} × {failure}"))
        .collect();
    let Summary {
        rotations,
        serials_unseen,
        ..
    } = summary;
    for (wrong, complaint) in [
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
            "a kind of work was never done".to_owned(),
        ),
        (
            *serials_unseen > 0,
            format!("Postgres has not seen {serials_unseen} certificates"),
        ),
        (
            summary.heard + summary.lost_while_refreshing != summary.notifications,
            "what was notified and what was heard do not add up".to_owned(),
        ),
        (
            summary.most_expired_in_use > 0,
            "a connection was in use past its certificate's end".to_owned(),
        ),
        (
            summary.dead > 0,
            format!("{} connections died", summary.dead),
        ),
        (
            summary.memory_growth_kib > KIBIBYTES,
            "memory grows".to_owned(),
        ),
        (summary.task_growth > TASKS, "tasks grow".to_owned()),
        (summary.file_growth > FILES, "open files grow".to_owned()),
    ] {
        if wrong {
            complaints.push(complaint);
        }
    }
    complaints
}

/// The whole run on one line.
fn line(summary: &Summary) -> String {
    let mut line = format!(
        "{:.0} s on PostgreSQL {}: {} rotations, {} queries, {} transactions, {} streams, {} \
         notifications ({} heard, {} lost in {} refreshes), {} failed; at most {} sessions; growth {:.0} KiB, {} tasks, {} files",
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
    if !summary.complaints.is_empty() {
        line += &format!("; FAILED: {}", summary.complaints.join("; "));
    }
    line
}

/// Every serial number that is published, as Postgres shows them.
#[derive(Clone, Default)]
struct Issued(Arc<Mutex<BTreeSet<String>>>);

impl Issued {
    fn follow(live: &LiveCert) -> Self {
        let issued = Self::default();
        let mut rotations = live.rotations();
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

/// The server's word on who is logged in with which certificate.
#[derive(Default)]
struct Witness {
    serials: BTreeSet<String>,
    /// Sessions at one moment, at most.
    most: usize,
}

impl Witness {
    async fn look(&mut self, admin: &Client) -> anyhow::Result<()> {
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
