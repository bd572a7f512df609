//! `cargo demo`: short-lived certificates rotate under load, with a real PKI and a real Postgres.

mod faults;
mod load;
mod report;
mod rotations;
mod view;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use perennial::{LiveCert, TlsSettings};
use perennial_service::App;
use perennial_testbed::Testbed;
use perennial_vault::{Auth, Vault};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::faults::{Faults, Network};
use crate::load::Load;
use crate::report::{Line, Summary};
use crate::rotations::{Log, Sessions, Witness};
use crate::watch::Watched;

const SECOND: Duration = Duration::from_secs(1);
/// How long the previous roots stay trusted after a change of the CA: until the servers have changed too.
const ROOTS_OVERLAP: Duration = Duration::from_secs(60);

/// Follows the options in `--help`.
const DESCRIPTION: &str = "\
Starts a real OpenBao with a PKI and a real Postgres that accepts only client certificates. Then it
runs a connection pool under steady load while its certificate is renewed again and again.

On a terminal it shows a live view, whose keys stop or seal OpenBao, stall the network, revoke the
certificate and replace the CA. Exits with 0 if certificates rotated and no query failed.";

/// Watch short-lived certificates rotate under load without a failed query
#[derive(Parser)]
#[command(name = "cargo demo", version, after_help = DESCRIPTION)]
struct Args {
    /// Lifetime of each certificate, 5s to 24h; it is renewed after 50-75 % of it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = lifetime)]
    ttl: Duration,

    /// Connections in the pool
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pool: u32,

    /// Queries per second; each starts on time even if earlier ones are still running
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,

    /// Stop after this time [default: run until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    run_for: Option<Duration>,

    /// Print the summary as JSON on standard output, everything else on standard error
    #[arg(long)]
    json: bool,
}

/// A shorter lifetime is too short for all connects, and a longer one shows no rotation.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(5)..=Duration::from_secs(24 * 3_600);
    if !allowed.contains(&lifetime) {
        return Err("expected 5s to 24h".to_owned());
    }
    Ok(lifetime)
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // An interrupt ends the servers during their start; later it ends the load.
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
    match summary.failure() {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => {
            out.line(format_args!("FAILED: {failure}"));
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
    // The live view can stall the network to the servers.
    let network = match out.has_live_view() {
        true => Some(Network::start(testbed).await?),
        false => None,
    };
    let (address, database) = match &network {
        Some(network) => (network.openbao(), network.postgres(testbed)),
        None => (bao.address(), postgres.config()),
    };
    let app = start_app(args, testbed, address, database).await?;
    let log = Log::follow(&app);
    let mut witness = Witness::new(postgres.admin().await?, &log);
    let servers = format!(
        "OpenBao at {}, PostgreSQL {} at {}:{}",
        bao.address(),
        postgres.version(),
        postgres.host(),
        postgres.port(),
    );
    out.line(format_args!(
        "{servers}; {} connections, {} queries/s, certificates valid for {}\n",
        args.pool,
        args.rate,
        humantime::format_duration(args.ttl),
    ));

    let load = Load::start(&app, args.rate, log.rotating())?;
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
            log.follow_failures(&app);
            let faults = Faults::new(testbed, network, &app);
            let watched = Watched {
                live: &app.live,
                log: &log,
                load: &load,
                faults: &faults,
            };
            watch::watch(&watched, &mut witness, servers, end).await?;
        }
        None => print_lines(args, out, &app.live, &log, &load, &mut witness, end).await?,
    }
    let sessions = witness.sessions().await?;
    let results = load.finish().await;
    if results.failed > 0 {
        out.line(report::errors(&results));
    }
    let serials = witness.serials();
    Ok(Summary {
        rotations: log.count().saturating_sub(1),
        queries_ok: results.ok,
        queries_failed: results.failed,
        serials_unknown: serials
            .iter()
            .filter(|serial| log.generation(serial).is_none())
            .count(),
        serials_seen_by_server: serials,
        oldest_generation_left: sessions.by_generation.keys().next().copied(),
        p50_ms: results.latency_ms(0.50),
        p99_ms: results.latency_ms(0.99),
        p99_ms_during_rotation: results.rotation_latency_ms(0.99),
        issued_by_ca: bao.issued().await?,
    })
}

async fn start_app(
    args: &Args,
    testbed: &Testbed,
    address: String,
    database: tokio_postgres::Config,
) -> anyhow::Result<App> {
    let (bao, approle) = (&testbed.bao, testbed.bao.approle());
    let vault = Vault::builder(address)
        .ca_pem(bao.ca_pem())
        .auth(Auth::approle(&approle.role_id, &approle.secret_id))
        .build()?;
    let source = vault
        .pki(bao.mount())
        .role(bao.client_role())
        .common_name("app")
        .ttl(args.ttl)
        .build()?;
    let live = LiveCert::builder().tls(TlsSettings::new().roots_overlap(ROOTS_OVERLAP));
    App::start(live, source, database, args.pool).await
}

/// Prints a line for each second until `end` resolves.
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
                let sessions = witness.sessions().await?;
                out.line(line(args, live, load, log, &sessions, began.elapsed()));
            }
        }
    }
}

fn line<'a>(
    args: &Args,
    live: &LiveCert,
    load: &Load,
    log: &Log,
    sessions: &'a Sessions,
    elapsed: Duration,
) -> Line<'a> {
    let status = live.status();
    let remaining = status
        .not_after
        .map(|end| end.duration_since(live.now()).unwrap_or_default());
    Line {
        elapsed,
        generation: status.generation.unwrap_or(0),
        remaining: remaining.unwrap_or_default(),
        ttl: args.ttl,
        sessions,
        load: load.take_second(),
        failed: load.failed(),
        rotating: log.rotating().load(Ordering::Relaxed),
    }
}

/// Where lines are printed: with `--json`, standard output is reserved for the summary.
#[derive(Clone, Copy)]
struct Out {
    json: bool,
}

impl Out {
    /// On a terminal the demo shows the live view, otherwise it prints lines.
    fn has_live_view(self) -> bool {
        !self.json && watch::is_terminal()
    }

    fn line(self, line: impl std::fmt::Display) {
        // A reader that closes the pipe early (`| head`) must not fail the demo.
        let _ = if self.json {
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

/// Resolves at Ctrl-C or SIGTERM.
async fn stop_signal() -> io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminated.recv() => Ok(()),
    }
}
