//! Latency and failures around rotations.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::{Panel, Scale, begin, pens};
use crate::pool::{Contender, Course, Sample};
use crate::statistics::quantile;

/// How finely latency is shown.
const BUCKET: f64 = 0.1;

/// Milliseconds, or per cent, at the top.
const TOP: f64 = 100.0;

/// p99 over time around all rotations, a panel for each rate.
///
/// # Errors
/// None: writing into a text does not fail.
pub fn rotations(size: u32, rates: &[(u32, Vec<Course>)]) -> Result<String, fmt::Error> {
    let drawing = Drawing {
        title: format!("{size} connections, requests of 10 ms: p99 in ms around a rotation"),
        panels: "seconds since the first replacement; what is above is cut",
        across: -0.5..1.5,
        step: 0.5,
        of: p99,
    };
    drawing.svg(rates)
}

/// Failed requests over time since a certificate was published that the server refuses.
///
/// # Errors
/// None: writing into a text does not fail.
pub fn refusal(size: u32, rates: &[(u32, Vec<Course>)]) -> Result<String, fmt::Error> {
    let drawing = Drawing {
        title: format!("{size} connections, a certificate that is refused: failed requests in %"),
        panels: "seconds since it was published",
        across: -1.0..6.0,
        step: 1.0,
        of: failed,
    };
    drawing.svg(rates)
}

/// What differs between the two.
struct Drawing {
    title: String,
    panels: &'static str,
    across: Range<f64>,
    step: f64,
    of: fn(&[&Sample]) -> f64,
}

impl Drawing {
    fn svg(&self, rates: &[(u32, Vec<Course>)]) -> Result<String, fmt::Error> {
        let pens = pens(Contender::ALL.map(Contender::name));
        let mut svg = begin(rates.len() as u32, &self.title, &pens)?;
        for (place, (rate, courses)) in (0u32..).zip(rates) {
            let up = Scale::Linear {
                top: TOP,
                step: 20.0,
            };
            let panel = Panel::new(place, self.across.clone(), self.step, up);
            let title = format!("{rate} requests a second; {}", self.panels);
            panel.frame(&mut svg, &title)?;
            // Ours last, on top.
            for (pen, course) in pens.iter().zip(courses).rev() {
                panel.curve(&mut svg, pen, buckets(course, &self.across, self.of))?;
            }
        }
        svg.push_str("</svg>\n");
        Ok(svg)
    }
}

/// What `of` says of the requests due in each bucket, over all rotations laid upon each other.
fn buckets(
    course: &Course,
    across: &Range<f64>,
    of: fn(&[&Sample]) -> f64,
) -> impl Iterator<Item = (f64, Option<f64>)> {
    let count = ((across.end - across.start) / BUCKET).round() as usize;
    let mut buckets: Vec<Vec<&Sample>> = vec![Vec::new(); count];
    for began in course.moving.iter().map(|window| window.start) {
        for sample in &course.samples {
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
