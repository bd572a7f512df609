//! `cargo demo`: certificates rotating under load, on a real PKI and a real Postgres.

mod faults;
mod load;
mod network;
mod report;
mod rotations;
mod screen;
mod view;
mod watch;
mod witness;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use perennial::{LiveCert, TlsSettings};
use perennial_postgres::CertConnectionManager;
use perennial_testbed::Testbed;
use perennial_vault::{Auth, VaultPki};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::faults::Faults;
use crate::load::Load;
use crate::network::Network;
use crate::report::{Line, Summary};
use crate::rotations::Log;
use crate::watch::Watched;
use crate::witness::{Sight, Witness};

const SECOND: Duration = Duration::from_secs(1);
/// How long the roots of before are trusted after the CA has changed: until the servers have too.
const ANCHOR_OVERLAP: Duration = Duration::from_secs(60);

/// Watch short-lived certificates rotate under load, without a failed query.
///
/// Starts a real OpenBao with a PKI and a real Postgres that wants client certificates, puts a
/// pool under steady load, and lets the certificates run out.
#[derive(Parser)]
#[command(name = "cargo demo", version)]
struct Args {
    /// Life of each certificate; renewed at 50-75 % of it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = life)]
    ttl: Duration,

    /// Connections in the pool
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pool: u32,

    /// Queries a second, started on time whether or not earlier ones are done
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,

    /// Stop after this time [default: at Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    run_for: Option<Duration>,

    /// Print one JSON object as the last line, and everything else to standard error
    #[arg(long)]
    json: bool,
}

/// Shorter lives are spent on connecting; longer ones show nothing.
fn life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(5)..=Duration::from_secs(24 * 3_600);
    if !allowed.contains(&life) {
        return Err("takes 5s to 24h".to_owned());
    }
    Ok(life)
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // Before the servers are up, an interrupt drops what has started; later it ends the load.
    let stop = stop_signal();
    tokio::pin!(stop);
    let out = Out { json: args.json };
    let testbed = tokio::select! {
        started = Testbed::start_with(move |step| out.line(step)) => started?,
        signal = &mut stop => {
            signal?;
            out.line("interrupted");
            return Ok(ExitCode::FAILURE);
        }
    };
    let summary = run(&args, out, &testbed, stop).await?;
    out.line(&summary);
    if args.json {
        out.json(&summary)?;
    }
    match summary.complaint() {
        None => Ok(ExitCode::SUCCESS),
        Some(complaint) => {
            out.line(format_args!("FAILED: {complaint}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn run(
    args: &Args,
    out: Out,
    testbed: &Testbed,
    stop: impl Future<Output = io::Result<()>>,
) -> anyhow::Result<Summary> {
    let (bao, postgres) = (&testbed.bao, &testbed.postgres);
    // For the live view the way to the servers can be stalled.
    let network = match out.is_watched() {
        true => Some(Network::start(testbed).await?),
        false => None,
    };
    let (address, config) = match &network {
        Some(network) => (network.openbao(), network.postgres(testbed)),
        None => (bao.address(), postgres.config()),
    };
    let approle = bao.approle();
    let source = VaultPki::builder(address)
        .ca_pem(bao.ca_pem())
        .auth(Auth::approle(&approle.role_id, &approle.secret_id))
        .mount(bao.mount())
        .role(bao.client_role())
        .common_name("app")
        .ttl(args.ttl)
        .build()?;
    let live = LiveCert::builder()
        .tls(TlsSettings::new().anchor_overlap(ANCHOR_OVERLAP))
        .start(source)
        .await
        .context("the first certificate")?;
    let manager = CertConnectionManager::new(live.clone(), config)?;
    let log = Log::follow(&live, &manager);
    let pool = manager
        .pool_builder()
        .max_size(args.pool)
        .min_idle(args.pool)
        .build(manager.clone())
        .await
        .context("filling the pool")?;
    let mut witness = Witness::new(postgres.admin().await?);
    let servers = format!(
        "OpenBao at {}, PostgreSQL {} at {}:{}",
        bao.address(),
        postgres.version(),
        postgres.host(),
        postgres.port(),
    );
    out.line(format_args!(
        "{servers}; {} connections, {} queries/s, certificates of {}\n",
        args.pool,
        args.rate,
        humantime::format_duration(args.ttl),
    ));

    let load = Load::start(pool.clone(), manager.clone(), args.rate, log.rotating())?;
    let end = async {
        match args.run_for {
            Some(time) => tokio::select! {
                () = tokio::time::sleep(time) => Ok(()),
                stopped = stop => stopped,
            },
            None => stop.await,
        }
    };
    match &network {
        Some(network) => {
            log.hear_failures(&live, &manager);
            let faults = Faults::new(testbed, network, &live, &manager, &pool);
            let watched = Watched {
                live: &live,
                log: &log,
                load: &load,
                faults: &faults,
            };
            watch::watch(&watched, &mut witness, servers, end).await?;
        }
        None => print_lines(args, out, &live, &log, &load, &mut witness, end).await?,
    }
    let sight = witness.look(&log).await?;
    let tally = load.finish().await;
    if tally.failed > 0 {
        out.line(report::errors(&tally));
    }
    let serials = witness.serials();
    Ok(Summary {
        rotations: log.count().saturating_sub(1),
        queries_ok: tally.ok,
        queries_failed: tally.failed,
        serials_unknown: serials
            .iter()
            .filter(|serial| log.generation(serial).is_none())
            .count(),
        serials_seen_by_server: serials,
        oldest_generation_left: sight.by_generation.keys().next().copied(),
        p50_ms: tally.latency_ms(0.50),
        p99_ms: tally.latency_ms(0.99),
        p99_ms_during_rotation: tally.rotation_latency_ms(0.99),
        issued_by_ca: bao.issued().await?,
    })
}

/// A line for each second, until `end` comes.
async fn print_lines(
    args: &Args,
    out: Out,
    live: &LiveCert,
    log: &Log,
    load: &Load,
    witness: &mut Witness,
    end: impl Future<Output = io::Result<()>>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut seconds = tokio::time::interval_at(began + SECOND, SECOND);
    tokio::pin!(end);
    loop {
        tokio::select! {
            ended = &mut end => return Ok(ended?),
            _ = seconds.tick() => {
                for event in log.take_events() {
                    out.line(format_args!("       {event}"));
                }
                let sight = witness.look(log).await?;
                out.line(second(args, live, load, log, &sight, began.elapsed()));
            }
        }
    }
}

fn second<'a>(
    args: &Args,
    live: &LiveCert,
    load: &Load,
    log: &Log,
    sight: &'a Sight,
    elapsed: Duration,
) -> Line<'a> {
    let status = live.status();
    let (per_second, p50_ms, p99_ms) = load.take_second();
    let left = status
        .not_after
        .map(|end| end.duration_since(live.now()).unwrap_or_default());
    Line {
        elapsed,
        generation: status.generation.unwrap_or(0),
        remaining: left.unwrap_or_default(),
        ttl: args.ttl,
        sight,
        per_second,
        p50_ms,
        p99_ms,
        failed: load.failed(),
        rotating: log.rotating().load(Ordering::Relaxed),
    }
}

/// Where things are printed: with `--json`, standard output is for the one object.
#[derive(Clone, Copy)]
struct Out {
    json: bool,
}

impl Out {
    /// Whether somebody sits before a terminal; others get lines.
    fn is_watched(self) -> bool {
        !self.json && screen::is_there()
    }

    fn line(self, line: impl std::fmt::Display) {
        // A reader that went away (`| head`) is no reason to fail.
        let _gone = if self.json {
            writeln!(io::stderr(), "{line}")
        } else {
            writeln!(io::stdout(), "{line}")
        };
    }

    fn json(self, summary: &Summary) -> anyhow::Result<()> {
        Ok(writeln!(
            io::stdout(),
            "{}",
            serde_json::to_string(summary)?
        )?)
    }
}

/// Ctrl-C, or a polite kill.
async fn stop_signal() -> io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminated.recv() => Ok(()),
    }
}
