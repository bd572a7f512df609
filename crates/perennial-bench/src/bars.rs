//! What was measured beside what was asked for, each told with its verdict.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::ensure;
use clap::Parser;

/// What the benches take behind `--`.
#[derive(Clone, Copy, Debug, Parser)]
#[non_exhaustive]
pub struct Arguments {
    /// Fail if a bar is missed
    #[arg(long)]
    pub check: bool,

    /// A few rounds, to see that it runs: no figures to keep
    #[arg(long)]
    pub quick: bool,

    /// Said by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// How often to measure: `full`, or `quick`.
    pub fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// A bench's `main`: measures on one thread, and fails where a bar is missed and that matters.
///
/// # Errors
/// What `measure` returns, and a missed bar with `--check`.
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

/// Counts what was missed.
#[derive(Debug, Default)]
pub struct Bars {
    missed: usize,
}

impl Bars {
    /// Tells whether `got` is no more than `bar`.
    ///
    /// # Errors
    /// Nobody reads standard output.
    pub fn at_most(&mut self, what: impl Display, got: f64, bar: f64) -> io::Result<()> {
        self.tell(&what, got, "<=", bar, got <= bar)
    }

    /// Tells whether `got` is no less than `bar`.
    ///
    /// # Errors
    /// Nobody reads standard output.
    pub fn at_least(&mut self, what: impl Display, got: f64, bar: f64) -> io::Result<()> {
        self.tell(&what, got, ">=", bar, got >= bar)
    }

    fn tell(
        &mut self,
        what: &dyn Display,
        got: f64,
        than: &str,
        bar: f64,
        met: bool,
    ) -> io::Result<()> {
        self.missed += usize::from(!met);
        let verdict = if met { "met   " } else { "MISSED" };
        writeln!(io::stdout(), "  {verdict}  {what}: {got:.3} {than} {bar}")
    }

    /// Fails if `check` was asked for and a bar was missed.
    ///
    /// # Errors
    /// How many were.
    pub fn finish(self, check: bool) -> anyhow::Result<()> {
        let missed = self.missed;
        ensure!(!check || missed == 0, "{missed} bars were missed");
        Ok(())
    }
}
