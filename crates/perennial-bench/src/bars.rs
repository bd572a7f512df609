//! Compares measured figures with their bars, and prints a verdict for each.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::ensure;
use clap::Parser;

/// Arguments of the benchmarks, after `--`.
#[derive(Clone, Copy, Debug, Parser)]
#[non_exhaustive]
pub struct Arguments {
    /// Fail if a bar is missed
    #[arg(long)]
    pub check: bool,

    /// Run only a few rounds, as a smoke test without meaningful figures
    #[arg(long)]
    pub quick: bool,

    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// The number of rounds: `full`, or `quick` with `--quick`.
    pub fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// The `main` of a benchmark: measures on one thread.
///
/// # Errors
/// Those of `measure`, and with `--check` a missed bar.
pub fn bench(
    measure: impl AsyncFnOnce(&Arguments, &mut Bars) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut bars = Bars::default();
    runtime.block_on(measure(&arguments, &mut bars))?;
    bars.finish(arguments.check)
}

/// Counts the missed bars.
#[derive(Debug, Default)]
pub struct Bars {
    missed: usize,
}

impl Bars {
    /// Prints whether `got` is at most `bar`.
    ///
    /// # Errors
    /// Writing to standard output fails.
    pub fn at_most(&mut self, what: impl Display, got: f64, bar: f64) -> io::Result<()> {
        self.print(&what, got, "<=", bar, got <= bar)
    }

    /// Prints whether `got` is at least `bar`.
    ///
    /// # Errors
    /// Writing to standard output fails.
    pub fn at_least(&mut self, what: impl Display, got: f64, bar: f64) -> io::Result<()> {
        self.print(&what, got, ">=", bar, got >= bar)
    }

    fn print(
        &mut self,
        what: &dyn Display,
        got: f64,
        relation: &str,
        bar: f64,
        met: bool,
    ) -> io::Result<()> {
        self.missed += usize::from(!met);
        let verdict = if met { "met   " } else { "MISSED" };
        writeln!(
            io::stdout(),
            "  {verdict}  {what}: {got:.3} {relation} {bar}"
        )
    }

    /// Ends the comparison.
    ///
    /// # Errors
    /// `check` is set and a bar was missed.
    pub fn finish(self, check: bool) -> anyhow::Result<()> {
        let missed = self.missed;
        ensure!(!check || missed == 0, "{missed} bars were missed");
        Ok(())
    }
}
