//! The service of `docker-compose.yml`: a pool under steady load, which tells how it fares.

mod load;
mod web;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use metrics_exporter_prometheus::PrometheusBuilder;
use perennial::{LiveCert, Schedule, TlsSettings};
use perennial_postgres::{CertConnectionManager, ConnectProbe};
use perennial_vault::{Auth, VaultPki};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::load::Load;
use crate::web::Web;

/// How often the counters are written to the log.
const REPORT: Duration = Duration::from_secs(10);
/// How long the end waits for what is under way.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long `--check` waits: less than compose does for it.
const ANSWER: Duration = Duration::from_secs(2);

/// Query Postgres with short-lived certificates, and count.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Ask the service that listens on this port whether it is ready, and do nothing else
    #[arg(long)]
    check: bool,

    /// Port of /metrics, /counters and /ready
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// Address of Vault or OpenBao
    #[arg(long, default_value = "https://openbao:8200")]
    vault: String,

    /// The CA of its own certificate (PEM)
    #[arg(long, default_value = "/public/openbao.pem")]
    vault_ca: PathBuf,

    /// File with the AppRole's role_id
    #[arg(long, default_value = "/credential/role_id")]
    role_id: PathBuf,

    /// File with a wrapping token for its secret_id, good for one start
    #[arg(long, default_value = "/credential/wrapped_secret_id")]
    wrapped_secret_id: PathBuf,

    /// The database
    #[arg(
        long,
        default_value = "host=postgres user=app dbname=app sslmode=require"
    )]
    postgres: tokio_postgres::Config,

    /// Life of each certificate
    #[arg(long, value_parser = humantime::parse_duration, default_value = "4m")]
    ttl: Duration,

    /// How long Vault may be away
    #[arg(long, value_parser = humantime::parse_duration, default_value = "130s")]
    outage: Duration,

    /// Connections in the pool
    #[arg(long, default_value_t = 8)]
    pool: u32,

    /// Queries a second, started on time whether or not earlier ones are done
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
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
    // As PID 1 it would not end otherwise.
    let mut terminated = signal(SignalKind::terminate())?;
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.port)).await?;
    let started = tokio::select! {
        started = start(&args) => started?,
        _ = terminated.recv() => return Ok(()),
    };
    let (live, manager, load) = started;
    let web = Web {
        live: live.clone(),
        load: load.clone(),
        recorder: recorder.clone(),
    };
    tokio::spawn(web.serve(listener));
    let driver = tokio::spawn(load.clone().drive(args.rate));
    let mut reports = tokio::time::interval(REPORT);
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            _ = reports.tick() => {
                // Else histograms that nobody scrapes would grow.
                recorder.run_upkeep();
                tracing::info!(counters = %serde_json::to_string(&load.counters())?, "so far");
            }
        }
    }
    driver.abort();
    manager.drain(FAREWELL).await;
    live.shutdown(FAREWELL).await?;
    Ok(())
}

async fn start(args: &Args) -> anyhow::Result<(LiveCert, CertConnectionManager, Load)> {
    let source = VaultPki::builder(&args.vault)
        .ca_pem(read(&args.vault_ca)?)
        // As text: a file would be read again at the next login, when it may hold a token that was
        // put there for another start.
        .auth(Auth::approle_wrapped(
            read(&args.role_id)?,
            read(&args.wrapped_secret_id)?,
        ))
        .mount("pki_int")
        .role("app")
        .common_name("app")
        .ttl(args.ttl)
        .build()?;
    let live = LiveCert::builder()
        .name("app")
        .schedule(Schedule::new().survive_outage(args.outage))
        // Postgres keeps its old certificate for a while after the CA has changed.
        .tls(TlsSettings::new().anchor_overlap(args.ttl * 2))
        .gate(ConnectProbe::new(args.postgres.clone())?)
        .start(source)
        .await
        .context("the first certificate")?;
    let manager = CertConnectionManager::builder(live.clone(), args.postgres.clone())
        .name("app")
        .build()?;
    let pool = manager
        .pool_builder()
        .max_size(args.pool)
        .min_idle(args.pool)
        .build(manager.clone())
        .await
        .context("filling the pool")?;
    let load = Load::new(pool, manager.clone());
    Ok((live, manager, load))
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// For the container's health check: the image has no other program.
fn check(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.0 200 "), "not ready");
    Ok(())
}
