//! A simulated fleet: the real schedule compared with the formulas of three peers.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use perennial_bench::fleet::Fleet;
use perennial_bench::plot::fleet::{PolicyRuns, svg};
use perennial_bench::policies;

/// Bar: the most renewals in a window, over the mean of an even spread.
const PEAK: f64 = 1.15;

/// Bar: the most fetches in a window after an outage, over the same mean.
const RECOVERY_PEAK: f64 = 6.0;

/// Simulate when a fleet renews that was started within one second, without and with an outage.
///
/// Certificates are valid for one hour. The CA is unavailable for ten minutes at the worst moment.
#[derive(Parser)]
#[command(name = "fleet")]
struct Args {
    /// Instances
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    size: u32,

    /// Simulated hours
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=48))]
    hours: u32,

    /// Seed of all random draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Fail if perennial misses a bar
    #[arg(long)]
    check: bool,

    /// Draw the fetches over time into this SVG file
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let fleet = Fleet {
        size: args.size,
        duration: Duration::from_secs(3_600) * args.hours,
        seed: args.seed,
    };
    let even = fleet.even();
    let over = |peak: u32| f64::from(peak) / even;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} instances; peaks of 10 s windows as multiples of {even:.0} fetches, the mean of an even spread\n\n\
         {:<16} {:>6}   {:>12} {:>9} {:>8} {:>10}",
        args.size, "policy", "peak", "outage from", "recovery", "expired", "failed"
    )?;
    let mut all = Vec::new();
    for policy in policies::ALL {
        let calm = fleet.calm(policy);
        let outage = fleet.worst_outage(policy);
        writeln!(
            out,
            "{:<16} {:>6.2}   {:>10} s {:>9.2} {:>8} {:>10}",
            policy.name(),
            over(calm.peak()),
            outage.began.as_secs(),
            over(outage.recovery_peak()),
            outage.run.expired,
            outage.run.failed,
        )?;
        all.push(PolicyRuns {
            policy,
            calm,
            outage,
        });
    }
    if let Some(path) = args.plot {
        std::fs::write(&path, svg(args.size, &all)?)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    if args.check {
        let PolicyRuns { calm, outage, .. } = &all[0];
        ensure!(over(calm.peak()) <= PEAK, "the peak is above {PEAK}");
        ensure!(
            over(outage.recovery_peak()) <= RECOVERY_PEAK,
            "the recovery peak is above {RECOVERY_PEAK}"
        );
        ensure!(
            calm.expired + outage.run.expired == 0,
            "certificates expired"
        );
    }
    Ok(())
}
