//! Fetches over time in two panels: in peace, and through an outage.

use std::fmt;
use std::time::Duration;

use super::{Panel, Scale, begin, pens};
use crate::fleet::{OUTAGE, Ordeal, Sight, WINDOW};
use crate::policies::Policy;

/// Fetches a second at the bottom and the top of the logarithmic axis.
const RATES: Scale = Scale::Log(1.0..100_000.0);

/// What was seen of one policy's fleet.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whose fleet.
    pub policy: Policy,
    /// In peace.
    pub calm: Sight,
    /// Through its worst outage.
    pub ordeal: Ordeal,
}

/// The whole drawing.
///
/// # Errors
/// None: writing into a text does not fail.
pub fn svg(size: u32, seen: &[Seen]) -> Result<String, fmt::Error> {
    let title = format!(
        "{size} instances started in one second, certificates of one hour: fetches a second"
    );
    let pens = pens(Policy::ALL.map(Policy::name));
    let mut svg = begin(2, &title, &pens)?;

    let calm = Panel::new(0, 0.0..120.0, 15.0, RATES);
    let title = "In peace; minutes since the start (the first 10 s, where all start, left out)";
    calm.frame(&mut svg, title)?;
    for (pen, seen) in pens.iter().zip(seen) {
        calm.curve(&mut svg, pen, rates(&seen.calm, 0.0))?;
    }

    let outage = Panel::new(1, -15.0..75.0, 15.0, RATES);
    outage.band(&mut svg, 0.0..minutes(OUTAGE))?;
    let title = "The CA is away for ten minutes (grey), for each where it hurts it most; \
                 minutes since it went; failed fetches count";
    outage.frame(&mut svg, title)?;
    for (pen, seen) in pens.iter().zip(seen) {
        let began = minutes(seen.ordeal.began);
        outage.curve(&mut svg, pen, rates(&seen.ordeal.sight, began))?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Fetches a second in each window but the first; `zero` is the minute that is called 0.
fn rates(sight: &Sight, zero: f64) -> impl Iterator<Item = (f64, Option<f64>)> {
    let windows = (0u32..).zip(&sight.windows).skip(1);
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
