//! Fetches over time as an SVG of two panels: in peace, and through an outage.

use std::fmt::{self, Write};
use std::ops::Range;
use std::time::Duration;

use crate::fleet::{OUTAGE, Ordeal, Sight, WINDOW};
use crate::policies::Policy;

const WIDTH: f64 = 880.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 860.0;
const PANEL: f64 = 210.0;

/// Fetches a second at the bottom and the top of the logarithmic axis.
const RATES: Range<f64> = 1.0..100_000.0;

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

/// One panel: where it lies on the page, and which minutes it shows.
struct Panel {
    top: f64,
    minutes: Range<f64>,
}

/// The whole drawing.
///
/// # Errors
/// None: writing into a text does not fail.
pub fn svg(size: u32, seen: &[Seen]) -> Result<String, fmt::Error> {
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} 640' \
         font-family='sans-serif' font-size='13' fill='#222'>\n\
         <rect width='100%' height='100%' fill='#fff'/>\n\
         <text x='20' y='28' font-size='16' font-weight='bold'>{size} instances started in one \
         second, certificates of one hour: fetches a second</text>"
    )?;
    for (place, seen) in (0u32..).zip(seen) {
        let x = LEFT + 185.0 * f64::from(place);
        let (colour, name) = (colour(seen.policy), seen.policy.name());
        writeln!(
            svg,
            "<rect x='{x}' y='43' width='22' height='4' fill='{colour}'/>\
             <text x='{}' y='50'>{name}</text>",
            x + 29.0
        )?;
    }

    let calm = Panel {
        top: 90.0,
        minutes: 0.0..120.0,
    };
    let title = "In peace; minutes since the start (the first 10 s, where all start, left out)";
    calm.frame(&mut svg, title)?;
    for seen in seen {
        calm.curve(&mut svg, seen.policy, &seen.calm, 0.0)?;
    }

    let outage = Panel {
        top: 375.0,
        minutes: -15.0..75.0,
    };
    let (from, to) = (outage.x(0.0), outage.x(minutes(OUTAGE)));
    writeln!(
        svg,
        "<rect x='{from}' y='{}' width='{}' height='{PANEL}' fill='#eee'/>",
        outage.top,
        to - from
    )?;
    let title = "The CA is away for ten minutes (grey), for each where it hurts it most; \
                 minutes since it went; failed fetches count";
    outage.frame(&mut svg, title)?;
    for seen in seen {
        let began = minutes(seen.ordeal.began);
        outage.curve(&mut svg, seen.policy, &seen.ordeal.sight, began)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

impl Panel {
    fn x(&self, minute: f64) -> f64 {
        let part = (minute - self.minutes.start) / (self.minutes.end - self.minutes.start);
        LEFT + part * (RIGHT - LEFT)
    }

    fn y(&self, rate: f64) -> f64 {
        let part = (rate / RATES.start).ln() / (RATES.end / RATES.start).ln();
        self.top + PANEL * (1.0 - part.max(0.0))
    }

    fn frame(&self, svg: &mut String, title: &str) -> fmt::Result {
        let bottom = self.top + PANEL;
        let above = self.top - 10.0;
        writeln!(svg, "<text x='{LEFT}' y='{above}'>{title}</text>")?;
        for rate in [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0] {
            let y = self.y(rate);
            writeln!(
                svg,
                "<path d='M{LEFT} {y:.1}H{RIGHT}' stroke='#ccc'/>\
                 <text x='{}' y='{:.1}' text-anchor='end'>{rate}</text>",
                LEFT - 8.0,
                y + 4.0
            )?;
        }
        let mut minute = self.minutes.start;
        while minute <= self.minutes.end {
            let x = self.x(minute);
            writeln!(
                svg,
                "<path d='M{x:.1} {bottom}v5' stroke='#888'/>\
                 <text x='{x:.1}' y='{}' text-anchor='middle'>{minute}</text>",
                bottom + 20.0
            )?;
            minute += 15.0;
        }
        Ok(())
    }

    /// A line over the windows of this panel; `zero` is the minute of the run that it calls 0.
    fn curve(&self, svg: &mut String, policy: Policy, sight: &Sight, zero: f64) -> fmt::Result {
        let width = if policy == Policy::Perennial {
            2.2
        } else {
            1.3
        };
        let colour = colour(policy);
        write!(
            svg,
            "<path fill='none' stroke='{colour}' stroke-width='{width}' stroke-linejoin='round' d='"
        )?;
        // As steps; windows of one height are one stroke, and where nothing is fetched is none.
        let mut last: Option<f64> = None;
        for (index, &fetches) in (0u32..).zip(&sight.windows).skip(1) {
            let minute = minutes(WINDOW * index) - zero;
            if !self.minutes.contains(&minute) {
                continue;
            }
            let x = self.x(minute);
            let y = (fetches > 0).then(|| self.y(f64::from(fetches) / WINDOW.as_secs_f64()));
            let bottom = self.top + PANEL;
            match (last, y) {
                (None, Some(y)) => write!(svg, "M{x:.1} {bottom}V{y:.1}")?,
                (Some(last), Some(y)) if (last - y).abs() < 0.05 => continue,
                (Some(_), Some(y)) => write!(svg, "H{x:.1}V{y:.1}")?,
                (Some(_), None) => write!(svg, "H{x:.1}V{bottom}")?,
                (None, None) => {}
            }
            last = y;
        }
        if last.is_some() {
            write!(svg, "H{RIGHT}")?;
        }
        writeln!(svg, "'/>")
    }
}

/// Colours that people with colour blindness tell apart (Okabe and Ito).
fn colour(policy: Policy) -> &'static str {
    match policy {
        Policy::Perennial => "#0072b2",
        Policy::ConsulTemplate => "#d55e00",
        Policy::Kubelet => "#009e73",
        Policy::Step => "#cc79a7",
    }
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}
