//! A simulated fleet on the real schedule, beside three peers' formulas.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use perennial_bench::fleet::Fleet;
use perennial_bench::plot::fleet::{Seen, svg};
use perennial_bench::policies::Policy;

/// The fullest window of renewals, over an even band's mean.
const PEAK: f64 = 1.15;

/// The fullest window after an outage, over the same mean.
const RECOVERY_PEAK: f64 = 6.0;

/// Start a fleet in one second, and watch when it renews: in peace, and through an outage.
///
/// Certificates live one hour; the CA is away for ten minutes, where that hurts most.
#[derive(Parser)]
#[command(name = "fleet")]
struct Args {
    /// Instances
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    size: u32,

    /// Virtual hours
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=48))]
    hours: u32,

    /// Of every draw
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Fail if perennial misses a bar
    #[arg(long)]
    check: bool,

    /// Draw fetches over time into this SVG
    #[arg(long, value_name = "PATH")]
    plot: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let fleet = Fleet {
        size: args.size,
        watched: Duration::from_secs(3_600) * args.hours,
        seed: args.seed,
    };
    let even = fleet.even();
    let over = |peak: u32| f64::from(peak) / even;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} instances, 10 s windows over the {even:.0} fetches of an even band\n\n\
         {:<16} {:>6}   {:>12} {:>9} {:>8} {:>10}",
        args.size, "policy", "peak", "outage from", "recovery", "lost", "failed"
    )?;
    let mut all = Vec::new();
    for policy in Policy::ALL {
        let calm = fleet.calm(policy);
        let ordeal = fleet.worst_outage(policy);
        writeln!(
            out,
            "{:<16} {:>6.2}   {:>10} s {:>9.2} {:>8} {:>10}",
            policy.name(),
            over(calm.peak()),
            ordeal.began.as_secs(),
            over(ordeal.recovery_peak()),
            ordeal.sight.lost,
            ordeal.sight.failed,
        )?;
        all.push(Seen {
            policy,
            calm,
            ordeal,
        });
    }
    if let Some(path) = args.plot {
        std::fs::write(&path, svg(args.size, &all)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.check {
        let Seen { calm, ordeal, .. } = &all[0];
        ensure!(over(calm.peak()) <= PEAK, "the peak is above {PEAK}");
        ensure!(
            over(ordeal.recovery_peak()) <= RECOVERY_PEAK,
            "the recovery peak is above {RECOVERY_PEAK}"
        );
        ensure!(calm.lost + ordeal.sight.lost == 0, "certificates expired");
    }
    Ok(())
}
