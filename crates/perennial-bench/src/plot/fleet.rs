//! Fetches over time in two panels: without and with an outage.

use std::fmt;
use std::time::Duration;

use super::{Panel, Scale, begin, pens};
use crate::fleet::{FleetRun, OUTAGE, OutageRun, WINDOW};
use crate::policies::{self, Policy};

/// Fetches per second at the bottom and the top of the logarithmic scale.
const RATES: Scale = Scale::Log(1.0..100_000.0);

/// The results of one policy.
#[derive(Clone, Debug)]
pub struct PolicyRuns {
    /// The policy.
    pub policy: &'static dyn Policy,
    /// Without an outage.
    pub calm: FleetRun,
    /// With the worst outage.
    pub outage: OutageRun,
}

/// Draws both panels.
///
/// # Errors
/// None: writing to a string cannot fail.
pub fn svg(size: u32, runs: &[PolicyRuns]) -> Result<String, fmt::Error> {
    let title = format!(
        "{size} instances started in one second, certificates valid for one hour: fetches per second"
    );
    let pens = pens(policies::ALL.map(Policy::name));
    let mut svg = begin(2, &title, &pens)?;

    let calm = Panel::new(0, 0.0..120.0, 15.0, RATES);
    let title =
        "No outage; minutes since the start (without the first 10 s, in which all instances start)";
    calm.frame(&mut svg, title)?;
    for (pen, run) in pens.iter().zip(runs) {
        calm.curve(&mut svg, pen, rates(&run.calm, 0.0))?;
    }

    let outage = Panel::new(1, -15.0..75.0, 15.0, RATES);
    outage.band(&mut svg, 0.0..minutes(OUTAGE))?;
    let title = "CA unavailable for ten minutes (grey), at the worst moment for each policy; \
                 minutes since its begin; includes failed fetches";
    outage.frame(&mut svg, title)?;
    for (pen, run) in pens.iter().zip(runs) {
        let began = minutes(run.outage.began);
        outage.curve(&mut svg, pen, rates(&run.outage.run, began))?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Fetches per second in each window except the first; minutes count from `zero`.
fn rates(run: &FleetRun, zero: f64) -> impl Iterator<Item = (f64, Option<f64>)> {
    let windows = (0u32..).zip(&run.windows).skip(1);
    windows.map(move |(index, &fetches)| {
        let rate = f64::from(fetches) / WINDOW.as_secs_f64();
        (
            minutes(WINDOW * index) - zero,
            (fetches > 0).then_some(rate),
        )
    })
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}
