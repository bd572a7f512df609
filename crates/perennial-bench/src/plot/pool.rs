//! Latency and failures around a rotation.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::{Panel, Scale, begin, pens};
use crate::pool::{Contender, PoolRun, Sample};
use crate::statistics::quantile;

/// Width of a step, in seconds.
const BUCKET: f64 = 0.1;

/// The top of the scale, in milliseconds or per cent.
const TOP: f64 = 100.0;

/// p99 over time around all rotations, with a panel for each rate.
///
/// # Errors
/// None: writing to a string cannot fail.
pub fn rotations(size: u32, rates: &[(u32, Vec<PoolRun>)]) -> Result<String, fmt::Error> {
    let drawing = Drawing {
        title: format!("{size} connections, requests of 10 ms: p99 in ms around a rotation"),
        panels: "seconds since the first replacement; higher values are cut off",
        across: -0.5..1.5,
        step: 0.5,
        of: p99,
    };
    drawing.svg(rates)
}

/// Failed requests over time after a certificate was published that the server refuses.
///
/// # Errors
/// None: writing to a string cannot fail.
pub fn refusal(size: u32, rates: &[(u32, Vec<PoolRun>)]) -> Result<String, fmt::Error> {
    let drawing = Drawing {
        title: format!("{size} connections, a refused certificate: failed requests in %"),
        panels: "seconds since it was published",
        across: -1.0..6.0,
        step: 1.0,
        of: failed,
    };
    drawing.svg(rates)
}

/// The differences between the two drawings.
struct Drawing {
    title: String,
    panels: &'static str,
    across: Range<f64>,
    step: f64,
    of: fn(&[&Sample]) -> f64,
}

impl Drawing {
    fn svg(&self, rates: &[(u32, Vec<PoolRun>)]) -> Result<String, fmt::Error> {
        let pens = pens(Contender::ALL.map(Contender::name));
        let mut svg = begin(rates.len() as u32, &self.title, &pens)?;
        for (index, (rate, runs)) in (0u32..).zip(rates) {
            let up = Scale::Linear {
                top: TOP,
                step: 20.0,
            };
            let panel = Panel::new(index, self.across.clone(), self.step, up);
            let title = format!("{rate} requests per second; {}", self.panels);
            panel.frame(&mut svg, &title)?;
            // Draw ours last, on top.
            for (pen, run) in pens.iter().zip(runs).rev() {
                panel.curve(&mut svg, pen, buckets(run, &self.across, self.of))?;
            }
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}

/// The value of `of` for the requests due in each bucket, over all rotations combined.
fn buckets(
    run: &PoolRun,
    across: &Range<f64>,
    of: fn(&[&Sample]) -> f64,
) -> impl Iterator<Item = (f64, Option<f64>)> {
    let count = ((across.end - across.start) / BUCKET).round() as usize;
    let mut buckets: Vec<Vec<&Sample>> = vec![Vec::new(); count];
    for began in run.moving.iter().map(|window| window.start) {
        for sample in &run.samples {
            let at = seconds(sample.due) - seconds(began) - across.start;
            if at >= 0.0
                && let Some(bucket) = buckets.get_mut((at / BUCKET) as usize)
            {
                bucket.push(sample);
            }
        }
    }
    let start = across.start;
    (0u32..).zip(buckets).map(move |(index, samples)| {
        let value = (!samples.is_empty()).then(|| of(&samples));
        (start + BUCKET * f64::from(index), value)
    })
}

fn p99(samples: &[&Sample]) -> f64 {
    let took: Vec<_> = samples
        .iter()
        .map(|sample| 1e3 * seconds(sample.took))
        .collect();
    quantile(&took, 0.99)
}

fn failed(samples: &[&Sample]) -> f64 {
    let failed = samples.iter().filter(|sample| sample.failure.is_some());
    100.0 * failed.count() as f64 / samples.len() as f64
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
