//! SVG drawings: a title, a legend, and panels of step curves below each other.

pub mod fleet;
pub mod pool;

use std::fmt::{self, Write};
use std::ops::Range;

const WIDTH: f64 = 880.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 860.0;
const PANEL: f64 = 210.0;

/// Distance between the tops of two panels.
const NEXT_PANEL: f64 = 285.0;

/// Distance from the top of the page to the first panel.
const TOP: f64 = 90.0;

/// The name and the look of a curve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pen {
    pub(crate) name: &'static str,
    pub(crate) colour: &'static str,
    pub(crate) width: f64,
}

/// Colours that people with colour blindness can distinguish (Okabe and Ito); ours is the first.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"];

/// Pens for these names; the first is ours and thicker than the others.
pub(crate) fn pens<const N: usize>(names: [&'static str; N]) -> [Pen; N] {
    let mut index = 0;
    names.map(|name| {
        let pen = Pen {
            name,
            colour: COLOURS[index % COLOURS.len()],
            width: if index == 0 { 2.2 } else { 1.3 },
        };
        index += 1;
        pen
    })
}

/// The vertical scale.
#[derive(Clone, Debug)]
pub(crate) enum Scale {
    /// Lines at powers of ten.
    Log(Range<f64>),
    /// Lines at multiples of `step`, starting at 0; values above `top` are cut off.
    Linear { top: f64, step: f64 },
}

impl Scale {
    /// The height of a value, as a part of the panel's height.
    fn part(&self, value: f64) -> f64 {
        match self {
            Self::Log(range) => {
                ((value / range.start).ln() / (range.end / range.start).ln()).max(0.0)
            }
            Self::Linear { top, .. } => (value / top).clamp(0.0, 1.0),
        }
    }

    /// The values of the lines.
    fn lines(&self) -> Vec<f64> {
        let (first, last) = match self {
            Self::Log(range) => (range.start, range.end),
            Self::Linear { top, .. } => (0.0, *top),
        };
        let next = |value: &f64| match self {
            Self::Log(_) => Some(value * 10.0),
            Self::Linear { step, .. } => Some(value + step),
        };
        let lines = std::iter::successors(Some(first), next);
        lines.take_while(|&value| value <= last).collect()
    }
}

/// The position and the scales of a panel.
pub(crate) struct Panel {
    top: f64,
    across: Range<f64>,
    step: f64,
    up: Scale,
}

/// The beginning of the page, up to the legend.
pub(crate) fn begin(panels: u32, title: &str, pens: &[Pen]) -> Result<String, fmt::Error> {
    let mut svg = String::new();
    let height = 70.0 + NEXT_PANEL * f64::from(panels);
    writeln!(
        svg,
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' \
         font-family='sans-serif' font-size='13' fill='#222'>\n\
         <rect width='100%' height='100%' fill='#fff'/>\n\
         <text x='20' y='28' font-size='16' font-weight='bold'>{title}</text>"
    )?;
    let distance = 185.0_f64.min((RIGHT - LEFT) / pens.len() as f64);
    for (index, pen) in (0u32..).zip(pens) {
        let x = LEFT + distance * f64::from(index);
        let Pen { name, colour, .. } = pen;
        writeln!(
            svg,
            "<rect x='{x}' y='43' width='22' height='4' fill='{colour}'/>\
             <text x='{}' y='50'>{name}</text>",
            x + 29.0
        )?;
    }
    Ok(svg)
}

impl Panel {
    /// The panel with this index, from 0; ticks at multiples of `step`.
    pub(crate) fn new(index: u32, across: Range<f64>, step: f64, up: Scale) -> Self {
        Self {
            top: TOP + NEXT_PANEL * f64::from(index),
            across,
            step,
            up,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let part = (value - self.across.start) / (self.across.end - self.across.start);
        LEFT + part * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + PANEL * (1.0 - self.up.part(value))
    }

    /// Draws a grey band; call it before drawing anything else.
    pub(crate) fn band(&self, svg: &mut String, across: Range<f64>) -> fmt::Result {
        let (from, to) = (self.x(across.start), self.x(across.end));
        writeln!(
            svg,
            "<rect x='{from}' y='{}' width='{}' height='{PANEL}' fill='#eee'/>",
            self.top,
            to - from
        )
    }

    pub(crate) fn frame(&self, svg: &mut String, title: &str) -> fmt::Result {
        let bottom = self.top + PANEL;
        let above = self.top - 10.0;
        writeln!(svg, "<text x='{LEFT}' y='{above}'>{title}</text>")?;
        for value in self.up.lines() {
            let y = self.y(value);
            writeln!(
                svg,
                "<path d='M{LEFT} {y:.1}H{RIGHT}' stroke='#ccc'/>\
                 <text x='{}' y='{:.1}' text-anchor='end'>{value}</text>",
                LEFT - 8.0,
                y + 4.0
            )?;
        }
        let mut tick = self.across.start;
        while tick <= self.across.end {
            let x = self.x(tick);
            writeln!(
                svg,
                "<path d='M{x:.1} {bottom}v5' stroke='#888'/>\
                 <text x='{x:.1}' y='{}' text-anchor='middle'>{tick}</text>",
                bottom + 20.0
            )?;
            tick += self.step;
        }
        Ok(())
    }

    /// Draws a line of steps, each up to the next one; `None` leaves a gap.
    pub(crate) fn curve(
        &self,
        svg: &mut String,
        pen: &Pen,
        steps: impl Iterator<Item = (f64, Option<f64>)>,
    ) -> fmt::Result {
        let Pen { colour, width, .. } = pen;
        write!(
            svg,
            "<path fill='none' stroke='{colour}' stroke-width='{width}' stroke-linejoin='round' d='"
        )?;
        // Adjacent steps of the same height are one stroke.
        let mut last: Option<f64> = None;
        for (at, value) in steps {
            if !self.across.contains(&at) {
                continue;
            }
            let x = self.x(at);
            let y = value.map(|value| self.y(value));
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
