//! The contents of the live view and how they are drawn; pure, without a terminal.

use std::collections::VecDeque;
use std::time::Duration;

use perennial::CertState;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};

use crate::faults::{Active, Link, OpenBao};
use crate::load::Second;
use crate::rotations::Sessions;

/// Seconds of load to keep: as many as the widest sparkline shows.
const HISTORY: usize = 300;
/// Events to keep.
const EVENTS: usize = 100;
/// Margin as wide as the time before an event.
const MARGIN: &str = "       ";
/// Colours of the generations, in turn. Red is reserved for problems.
const COLOURS: [Color; 5] = [
    Color::Green,
    Color::Cyan,
    Color::Yellow,
    Color::Magenta,
    Color::Blue,
];

/// Everything that the live view shows at one moment.
#[derive(Default)]
pub(crate) struct View {
    /// The servers and their addresses.
    pub(crate) servers: String,
    pub(crate) elapsed: Duration,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) sessions: Sessions,
    pub(crate) load: VecDeque<Second>,
    pub(crate) failed: u64,
    /// Oldest first, each with its time since the start.
    pub(crate) events: VecDeque<(Duration, String)>,
    pub(crate) faults: Active,
    /// Whether an action is under way.
    pub(crate) busy: bool,
}

/// The current certificate.
pub(crate) struct Certificate {
    pub(crate) generation: u64,
    pub(crate) serial: String,
    pub(crate) state: CertState,
    /// The whole usable lifetime.
    pub(crate) lifetime: Duration,
    pub(crate) remaining: Duration,
    /// Time until the next fetch.
    pub(crate) next_fetch: Option<Duration>,
    pub(crate) failures: u32,
}

impl View {
    pub(crate) fn add_second(&mut self, second: Second) {
        self.load.push_back(second);
        if self.load.len() > HISTORY {
            self.load.pop_front();
        }
    }

    /// Adds an event unless it is one of the last three: two failures may alternate for a long time.
    pub(crate) fn add_event(&mut self, event: String) {
        if self
            .events
            .iter()
            .rev()
            .take(3)
            .any(|(_, last)| *last == event)
        {
            return;
        }
        self.events.push_back((self.elapsed, event));
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

pub(crate) fn draw(frame: &mut Frame<'_>, view: &View) {
    let title = format!(" Perennial · {} ", view.servers);
    let outer = Block::bordered()
        .title(title.bold())
        .title(Line::from(format!(" {} ", clock(view.elapsed))).right_aligned());
    let area = outer.inner(frame.area());
    frame.render_widget(outer, frame.area());
    let pool_rows = draw_pool(view, area.width.saturating_sub(2));
    let [certificate, pool, load, events, keys] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(u16::try_from(pool_rows.len()).unwrap_or(u16::MAX) + 1),
        Constraint::Length(5),
        Constraint::Min(0),
        Constraint::Length(2),
    ])
    .horizontal_margin(1)
    .areas(area);
    frame.render_widget(draw_certificate(view, certificate.width), certificate);
    frame.render_widget(Paragraph::new(pool_rows), pool);
    draw_load(frame, view, load);
    frame.render_widget(draw_events(view, events), events);
    frame.render_widget(Paragraph::new(draw_keys(view)), keys);
}

fn draw_certificate(view: &View, width: u16) -> Paragraph<'static> {
    let Some(certificate) = &view.certificate else {
        return Paragraph::new("no certificate yet".red().bold());
    };
    let colour = colour(certificate.generation);
    let (state, state_colour) = match certificate.state {
        CertState::Fresh => ("fresh", Color::Green),
        CertState::Due => ("due", Color::Yellow),
        CertState::Failing => ("renewal failing", Color::Red),
        CertState::Expired => ("expired", Color::Red),
        CertState::Stopped => ("no longer renewed", Color::Red),
        _ => ("starting", Color::Gray),
    };
    let mut summary = format!(
        "{} of {} left",
        seconds(certificate.remaining),
        seconds(certificate.lifetime)
    );
    if let Some(wait) = certificate.next_fetch {
        let what = if certificate.failures == 0 {
            "renewal".to_owned()
        } else {
            format!("failed {} times, next attempt", certificate.failures)
        };
        summary += &format!(" · {what} in {}", seconds(wait));
    }
    Paragraph::new(vec![
        Line::from(vec![
            "certificate  ".bold(),
            format!(" #{} ", certificate.generation)
                .fg(Color::Black)
                .bg(colour),
            format!("  {state}  ").fg(state_colour).bold(),
            format!("serial {}", certificate.serial).dark_gray(),
        ]),
        Line::from(lifetime(certificate, width)),
        Line::from(summary),
    ])
}

/// The lifetime from left to right: the elapsed part, the remaining part, and a mark at the next fetch.
fn lifetime(certificate: &Certificate, width: u16) -> Vec<Span<'static>> {
    let width = usize::from(width);
    let elapsed = certificate.lifetime.saturating_sub(certificate.remaining);
    let at = |moment: Duration| {
        let part = moment.as_secs_f64() / certificate.lifetime.as_secs_f64().max(f64::MIN_POSITIVE);
        ((part * width as f64) as usize).min(width)
    };
    let now = at(elapsed);
    let fetch = certificate.next_fetch.map(|wait| at(elapsed + wait));
    let colour = colour(certificate.generation);
    let cell = |column: usize| match fetch {
        Some(fetch) if column == fetch => "◆".fg(Color::White).bold(),
        _ if column < now => "─".dark_gray(),
        _ => "█".fg(colour),
    };
    (0..width).map(cell).collect()
}

/// One cell for each session that Postgres reports, oldest generation first; `None` is an unknown certificate.
fn cells(sessions: &Sessions) -> Vec<Option<u64>> {
    let known = sessions.by_generation.iter();
    let known = known.flat_map(|(generation, count)| repeat(Some(*generation), *count));
    known.chain(repeat(None, sessions.unknown)).collect()
}

fn repeat(cell: Option<u64>, count: i64) -> impl Iterator<Item = Option<u64>> {
    std::iter::repeat_n(cell, usize::try_from(count).unwrap_or(0))
}

fn draw_pool(view: &View, width: u16) -> Vec<Line<'static>> {
    let (cells, width) = (cells(&view.sessions), usize::from(width).max(1));
    let mut lines = vec![Line::from(vec![
        "pool as seen by Postgres  ".bold(),
        format!("{} connections", cells.len()).into(),
    ])];
    // Show the generation's number if all cells fit in four rows, otherwise only its colour.
    let wide = (width / 4).max(1);
    let (label, gap, per_row): (fn(&Option<u64>) -> String, _, _) = if cells.len() <= 4 * wide {
        (numbered, " ", wide)
    } else {
        (|_cell| " ".to_owned(), "", width)
    };
    for row in cells.chunks(per_row) {
        let spans = row.iter().flat_map(|cell| {
            let colour = cell.map_or(Color::Red, colour);
            [label(cell).fg(Color::Black).bg(colour), gap.into()]
        });
        lines.push(Line::from(spans.collect::<Vec<_>>()));
    }
    lines
}

fn numbered(cell: &Option<u64>) -> String {
    cell.map_or_else(
        || " ? ".to_owned(),
        |generation| format!("{:^3}", generation % 100),
    )
}

fn draw_load(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let [head, bars] = Layout::vertical([Constraint::Length(1), Constraint::Length(3)]).areas(area);
    let [left, right] = halves(bars);
    let failed = format!("{} failed", view.failed);
    let failed = match view.failed {
        0 => failed.green(),
        _ => failed.red().bold(),
    };
    let last = view.load.back().copied().unwrap_or_default();
    let queries_head = vec![
        "load  ".bold(),
        format!("{} queries/s · ", last.queries).into(),
        failed,
    ];
    let p99_head = format!("p50 {:.1} ms · p99 {:.1} ms", last.p50_ms, last.p99_ms);
    frame.render_widget(Line::from(queries_head), halves(head)[0]);
    frame.render_widget(Line::from(p99_head), halves(head)[1]);
    let newest = |area: Rect, value: fn(&Second) -> u64| {
        let skipped = view.load.len().saturating_sub(usize::from(area.width));
        view.load
            .iter()
            .skip(skipped)
            .map(value)
            .collect::<Vec<_>>()
    };
    let queries = newest(left, |second| second.queries);
    frame.render_widget(Sparkline::default().data(queries).style(Color::Green), left);
    // In tenths of a millisecond, because whole milliseconds are too coarse.
    let p99 = newest(right, |second| (second.p99_ms * 10.0) as u64);
    frame.render_widget(Sparkline::default().data(p99).style(Color::Yellow), right);
}

fn halves(area: Rect) -> [Rect; 2] {
    let halves = Layout::horizontal([Constraint::Ratio(1, 2); 2]);
    halves.spacing(2).areas(area)
}

/// The newest events that fit, each with its whole text.
fn draw_events(view: &View, area: Rect) -> Paragraph<'static> {
    let width = usize::from(area.width).saturating_sub(MARGIN.len()).max(1);
    let mut lines: Vec<_> = (view.events.iter())
        .flat_map(|(at, event)| {
            let text: Vec<char> = event.chars().collect();
            let time = format!("{}  ", clock(*at));
            let parts = text.chunks(width).enumerate().map(|(part, text)| {
                let margin = if part == 0 { time.as_str() } else { MARGIN };
                Line::from(vec![
                    margin.to_owned().dark_gray(),
                    text.iter().collect::<String>().into(),
                ])
            });
            parts.collect::<Vec<_>>()
        })
        .collect();
    let room = usize::from(area.height).saturating_sub(1);
    lines.drain(..lines.len().saturating_sub(room));
    lines.insert(0, Line::from("events".bold()));
    Paragraph::new(lines)
}

/// What each key does now; red keys end an active fault.
fn draw_keys(view: &View) -> Vec<Line<'static>> {
    let faults = view.faults;
    let (normal, repair) = (Style::new(), Style::new().red().bold());
    let network = |link: Link| match link {
        Link::Open => ("stall", normal),
        Link::Stalled => ("resume", repair),
    };
    let (stop, seal) = match faults.openbao {
        OpenBao::Running => (("stop", normal), ("seal", normal)),
        OpenBao::Stopped => (("start", repair), ("seal", normal)),
        OpenBao::Sealed => (("stop", normal), ("unseal", repair)),
    };
    let key = |key: &'static str, (verb, style): (&'static str, Style), object: &'static str| {
        [
            format!(" {key} ").bold().reversed(),
            Span::styled(format!(" {verb} {object}  "), style),
        ]
    };
    let first = [
        key("o", stop, "OpenBao"),
        key("s", seal, "OpenBao"),
        key("r", ("renew", normal), "now"),
        key("v", ("revoke", normal), ""),
        key("c", ("new", normal), "CA"),
    ];
    let second = [
        key("n", network(faults.link_to_openbao), "network to OpenBao"),
        key("p", network(faults.link_to_postgres), "network to Postgres"),
        key("q", ("quit", normal), ""),
    ];
    let mut second = second.concat();
    if view.busy {
        second.push("…".yellow().bold());
    }
    vec![first.concat().into(), second.into()]
}

fn colour(generation: u64) -> Color {
    // A remainder of five fits in any integer type.
    COLOURS[(generation % COLOURS.len() as u64) as usize]
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests;
