//! A thousand live certificates in one process: memory for each, and CPU time while idle.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use perennial::LiveCert;
use perennial_bench::memory_ca::MemoryCa;
use perennial_bench::process::{cpu_time, resident};
use tokio::time::Instant;

/// Bar: resident memory for each certificate.
const KIBIBYTES: f64 = 32.0;

/// Bar: part of one core while no renewal is due.
const IDLE: f64 = 0.001;

/// Start many live certificates with a CA in memory, then measure them while they are idle.
#[derive(Parser)]
#[command(name = "thousand")]
struct Args {
    /// Live certificates
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    size: u32,

    /// Seconds to stay idle
    #[arg(long, value_name = "N", default_value_t = 20)]
    idle: u64,

    /// Fail if a bar is missed
    #[arg(long)]
    check: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    let ca = MemoryCa::default();
    // The first certificate pays the costs per process: code pages and the crypto provider.
    let first = LiveCert::start(ca.clone()).await?;

    let before = resident()?;
    let mut all = Vec::new();
    for _ in 0..args.size {
        all.push(LiveCert::start(ca.clone()).await?);
    }
    let each = resident()?.saturating_sub(before) as f64 / 1_024.0 / f64::from(args.size);
    writeln!(
        out,
        "resident memory for each of {}: {each:.1} KiB",
        args.size
    )?;

    let (began, spent) = (Instant::now(), cpu_time()?);
    tokio::time::sleep(Duration::from_secs(args.idle)).await;
    let spent = cpu_time()?.saturating_sub(spent);
    let idle = spent.as_secs_f64() / began.elapsed().as_secs_f64();
    writeln!(
        out,
        "idle for {} s: {spent:?} of CPU, {:.4} % of a core",
        args.idle,
        100.0 * idle
    )?;

    ensure!(
        all.iter().chain([&first]).all(LiveCert::is_ready),
        "a certificate is not ready"
    );
    if args.check {
        ensure!(each <= KIBIBYTES, "more than {KIBIBYTES} KiB for each");
        ensure!(
            idle < IDLE,
            "idle certificates use more than {IDLE} of a core"
        );
    }
    Ok(())
}
