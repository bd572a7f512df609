use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::*;

/// The view on a terminal of 80×24.
fn drawn(view: &View) -> Buffer {
    drawn_on(view, 80, 24)
}

fn drawn_on(view: &View, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    let lines = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

/// The background colours of all cells with this symbol.
fn backgrounds(buffer: &Buffer, symbol: &str) -> Vec<Color> {
    let cells = buffer.content.iter();
    let shown = cells.filter(|cell| cell.symbol() == symbol && cell.bg != Color::Reset);
    shown.map(|cell| cell.bg).collect()
}

fn certificate(remaining: u64, next_fetch: u64) -> Certificate {
    Certificate {
        generation: 3,
        serial: "0a:0b".to_owned(),
        state: CertState::Fresh,
        lifetime: Duration::from_secs(60),
        remaining: Duration::from_secs(remaining),
        next_fetch: Some(Duration::from_secs(next_fetch)),
        failures: 0,
    }
}

fn view() -> View {
    View {
        servers: "OpenBao, PostgreSQL 17".to_owned(),
        elapsed: Duration::from_secs(83),
        certificate: Some(certificate(30, 10)),
        ..View::default()
    }
}

/// Columns of the lifetime's bar: elapsed, position of the mark, remaining.
fn bar(view: &View) -> (usize, usize, usize) {
    let shown = text(&drawn(view));
    let line = shown.lines().find(|line| line.contains('◆')).unwrap();
    let columns: Vec<char> = line.chars().collect();
    let count = |wanted| columns.iter().filter(|&&column| column == wanted).count();
    let marker = columns.iter().position(|&column| column == '◆').unwrap();
    // Subtract the frame and its margin.
    (count('─'), marker - 2, count('█'))
}

#[test]
fn certificate_at_half_its_lifetime_shows_half_a_bar_and_the_next_renewal() {
    let view = view();
    // 76 columns: 30 of 60 s have elapsed, and the renewal is 10 s away.
    assert_eq!(bar(&view), (38, 50, 37));
    let shown = text(&drawn(&view));
    assert!(
        shown.contains("30 s of 60 s left · renewal in 10 s"),
        "{shown}"
    );
    assert!(shown.contains("01:23"), "{shown}");
}

#[test]
fn failing_renewal_is_shown_with_the_time_of_the_next_attempt() {
    let mut view = view();
    view.certificate = Some(Certificate {
        state: CertState::Failing,
        failures: 4,
        ..certificate(12, 2)
    });
    let shown = text(&drawn(&view));
    assert!(shown.contains("renewal failing"), "{shown}");
    assert!(
        shown.contains("12 s of 60 s left · failed 4 times, next attempt in 2 s"),
        "{shown}"
    );
}

#[test]
fn each_connection_is_a_cell_in_the_colour_of_its_generation() {
    let mut view = view();
    view.sessions.by_generation = [(2, 3), (3, 5)].into();
    view.sessions.unknown = 1;
    let drawn = drawn(&view);
    assert_eq!(backgrounds(&drawn, "2"), [colour(2); 3]);
    // One more cell is the label of the certificate itself.
    assert_eq!(backgrounds(&drawn, "3"), [colour(3); 6]);
    assert_eq!(backgrounds(&drawn, "?"), [Color::Red]);
    assert_ne!(colour(2), colour(3));
    assert!(text(&drawn).contains("9 connections"));
}

#[test]
fn large_pool_is_shown_completely_and_leaves_room_for_events() {
    let mut view = view();
    view.sessions.by_generation = [(3, 40), (4, 160)].into();
    view.add_event("something happened".to_owned());
    let drawn = drawn(&view);
    let of = |generation| {
        let colour = colour(generation);
        backgrounds(&drawn, " ")
            .iter()
            .filter(|&&shown| shown == colour)
            .count()
    };
    // Two more cells surround the certificate's own number.
    assert_eq!((of(3), of(4)), (40 + 2, 160));
    assert!(text(&drawn).contains("something happened"));
}

#[test]
fn failure_count_is_red_and_zero_is_green() {
    let mut view = view();
    let colour_of_failed = |view: &View| {
        let drawn = drawn(view);
        let at = text(&drawn).replace('\n', "");
        let byte = at.find(" failed").unwrap();
        drawn.content[at[..byte].chars().count() - 1].fg
    };
    assert_eq!(colour_of_failed(&view), Color::Green);
    view.failed = 7;
    assert_eq!(colour_of_failed(&view), Color::Red);
}

#[test]
fn keys_offer_to_end_active_faults() {
    let mut view = view();
    let shown = text(&drawn(&view));
    assert!(shown.contains("stop OpenBao") && shown.contains("stall network to Postgres"));
    view.faults = Active {
        openbao: OpenBao::Stopped,
        link_to_postgres: Link::Stalled,
        ..Active::default()
    };
    let shown = text(&drawn(&view));
    assert!(shown.contains("start OpenBao") && shown.contains("resume network to Postgres"));
    assert!(!shown.contains("stop OpenBao"), "{shown}");
}

#[test]
fn all_keys_fit_a_narrow_terminal_while_everything_is_broken() {
    let mut view = view();
    view.busy = true;
    for openbao in [OpenBao::Stopped, OpenBao::Sealed] {
        view.faults = Active {
            openbao,
            link_to_openbao: Link::Stalled,
            link_to_postgres: Link::Stalled,
        };
        let shown = text(&drawn(&view));
        assert!(
            shown.contains("new CA") && shown.contains("quit"),
            "{shown}"
        );
        assert!(shown.contains('…'), "{shown}");
    }
}

#[test]
fn repeated_event_is_kept_once_and_the_newest_are_shown() {
    let mut view = view();
    for number in [1, 2, 2, 2, 3] {
        view.add_event(format!("event {number}"));
    }
    assert_eq!(view.events.len(), 3);
    for number in 4..60 {
        view.add_event(format!("event {number}"));
    }
    let shown = text(&drawn(&view));
    assert!(
        shown.contains("event 59") && !shown.contains("event 3 "),
        "{shown}"
    );
}

#[test]
fn long_event_is_shown_to_its_end() {
    let mut view = view();
    view.add_event(format!("{} and the cause", "x".repeat(100)));
    let shown = text(&drawn(&view));
    let cause = shown.lines().find(|line| line.contains("and the cause"));
    // The continuation is aligned with the text, not with the time.
    assert!(
        cause.unwrap().starts_with(&format!("│ {MARGIN}x")),
        "{shown}"
    );
}

#[test]
fn empty_view_and_tiny_terminal_are_drawn() {
    let nothing = View::default();
    assert!(text(&drawn(&nothing)).contains("no certificate"));
    for (width, height) in [(1, 1), (10, 3), (40, 10), (300, 80)] {
        drawn_on(&nothing, width, height);
        let mut view = view();
        view.sessions.by_generation = [(3, 20)].into();
        drawn_on(&view, width, height);
    }
}
