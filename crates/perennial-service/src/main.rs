//! The service of `docker-compose.yml`: a pool under steady load, with its counters, metrics and readiness over HTTP.

mod counters;
mod web;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use metrics_exporter_prometheus::PrometheusBuilder;
use perennial::{LiveCert, RenewalSchedule, TlsSettings};
use perennial_postgres::ConnectProbe;
use perennial_service::{App, OpenLoop};
use perennial_vault::{Auth, Vault};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::counters::Queries;
use crate::web::Web;

/// Interval at which the counters are logged.
const REPORT: Duration = Duration::from_secs(10);
/// Limit for each step of the shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Limit for `--check`: less than the health check of docker-compose.yml allows.
const CHECK: Duration = Duration::from_secs(2);

/// Run queries on Postgres with short-lived client certificates, and count the results
#[derive(Parser)]
#[command(
    version,
    after_help = "Serves /metrics (Prometheus), /counters (JSON) and /ready over HTTP."
)]
struct Args {
    /// Only check whether the service on this port is ready, then exit (0 = ready)
    #[arg(long)]
    check: bool,

    /// Port of /metrics, /counters and /ready
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// Address of Vault or OpenBao
    #[arg(long, value_name = "URL", default_value = "https://openbao:8200")]
    vault: String,

    /// File with the CA of that server's own certificate (PEM)
    #[arg(long, value_name = "FILE", default_value = "/public/openbao.pem")]
    vault_ca: PathBuf,

    /// File with the role_id of the AppRole
    #[arg(long, value_name = "FILE", default_value = "/credential/role_id")]
    role_id: PathBuf,

    /// File with a wrapping token for the secret_id; it works for one start only
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/credential/wrapped_secret_id"
    )]
    wrapped_secret_id: PathBuf,

    /// Connection string of the database
    #[arg(
        long,
        value_name = "CONFIG",
        default_value = "host=postgres user=app dbname=app sslmode=require"
    )]
    postgres: tokio_postgres::Config,

    /// Lifetime of each certificate
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "4m")]
    ttl: Duration,

    /// Longest Vault outage to survive; certificates are renewed early enough for it
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "130s")]
    outage: Duration,

    /// Connections in the pool
    #[arg(long, value_name = "N", default_value_t = 8)]
    pool: u32,

    /// Queries per second; each starts on time even if earlier ones are still running
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.check {
        return check(args.port);
    }
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    run(args).await
}

async fn run(args: Args) -> anyhow::Result<()> {
    // The kernel ignores SIGTERM for PID 1 unless the process handles it.
    let mut terminated = signal(SignalKind::terminate())?;
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.port)).await?;
    let app = tokio::select! {
        started = start(&args) => started?,
        _ = terminated.recv() => return Ok(()),
    };
    let queries = Queries::new(app.clone());
    let web = Web {
        live: app.live.clone(),
        queries: queries.clone(),
        recorder: recorder.clone(),
    };
    tokio::spawn(web.serve(listener));
    let running = queries.clone();
    let load = OpenLoop::start(args.rate, move |_due| running.clone().run_one());
    let mut reports = tokio::time::interval(REPORT);
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            _ = reports.tick() => {
                // Otherwise histograms grow without limit while Prometheus does not scrape them.
                recorder.run_upkeep();
                let counters = serde_json::to_string(&queries.counters())?;
                tracing::info!(%counters, "counters since the start");
            }
        }
    }
    drop(load);
    app.pool.drain(SHUTDOWN).await;
    app.live.shutdown(SHUTDOWN).await?;
    Ok(())
}

async fn start(args: &Args) -> anyhow::Result<App> {
    let vault = Vault::builder(&args.vault)
        .ca_pem(read(&args.vault_ca)?)
        // As text, not as paths: the next login would read the files again, and they may then hold a
        // wrapping token for another start.
        .auth(Auth::approle_wrapped(
            read(&args.role_id)?,
            read(&args.wrapped_secret_id)?,
        ))
        .build()?;
    let source = vault
        .pki("pki_int")
        .role("app")
        .common_name("app")
        .ttl(args.ttl)
        .build()?;
    let live = LiveCert::builder()
        .name("app")
        .renewal(RenewalSchedule::new().survive_outage(args.outage))
        // After a change of the CA, Postgres presents its old certificate for a while.
        .tls(TlsSettings::new().roots_overlap(args.ttl * 2))
        .gate(ConnectProbe::new(args.postgres.clone())?);
    App::start(live, source, args.postgres.clone(), args.pool).await
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// The health check of the container, whose image contains no other program.
fn check(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, CHECK)?;
    stream.set_read_timeout(Some(CHECK))?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.0 200 "), "not ready");
    Ok(())
}
