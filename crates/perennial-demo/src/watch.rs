//! The live view on a terminal: draws ten times a second and performs the actions of pressed keys.

use std::future::pending;
use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::thread;
use std::time::Duration;

use perennial::LiveCert;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::faults::{Action, Faults};
use crate::load::Load;
use crate::rotations::{Log, Witness};
use crate::view::{self, Certificate, View};

/// Interval between two drawings.
const FRAME: Duration = Duration::from_millis(100);
/// Interval between two readings of the load.
const SECOND: Duration = Duration::from_secs(1);

/// An action under way; it returns the text of its event.
type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<String>> + 'a>>;

/// What the live view shows and controls.
pub(crate) struct Watched<'a> {
    pub(crate) live: &'a LiveCert,
    pub(crate) log: &'a Log,
    pub(crate) load: &'a Load,
    pub(crate) faults: &'a Faults<'a>,
}

/// Shows the live view until the user quits or `end` resolves.
pub(crate) async fn watch(
    watched: &Watched<'_>,
    witness: &mut Witness,
    servers: String,
    end: impl Future<Output = io::Result<()>>,
) -> anyhow::Result<()> {
    let mut screen = Screen::take()?;
    let began = Instant::now();
    let mut view = View {
        servers,
        ..View::default()
    };
    let mut frames = tokio::time::interval(FRAME);
    // Skip late frames instead of drawing them one after the other.
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seconds = tokio::time::interval_at(began + SECOND, SECOND);
    // One action at a time, because each expects the servers as the previous one left them.
    let mut action: Running<'_> = Box::pin(pending());
    tokio::pin!(end);
    loop {
        tokio::select! {
            ended = &mut end => return Ok(ended?),
            input = screen.input() => match input? {
                Input::Quit => return Ok(()),
                Input::Key(key) => if let Some(wanted) = Action::of(key) && !view.busy {
                    view.busy = true;
                    action = Box::pin(watched.faults.perform(wanted));
                },
            },
            done = &mut action => {
                view.busy = false;
                action = Box::pin(pending());
                add_events(watched.log, &mut view);
                view.add_event(done.unwrap_or_else(|error| format!("{error:#}")));
            }
            _ = seconds.tick() => view.add_second(watched.load.take_second()),
            _ = frames.tick() => {
                view.elapsed = began.elapsed();
                view.certificate = certificate(watched.live);
                view.sessions = witness.sessions().await?;
                view.failed = watched.load.failed();
                view.faults = watched.faults.active();
                add_events(watched.log, &mut view);
                screen.show(&view)?;
            }
        }
    }
}

fn add_events(log: &Log, view: &mut View) {
    for event in log.take_events() {
        view.add_event(event);
    }
}

/// The current certificate, even if it has expired.
fn certificate(live: &LiveCert) -> Option<Certificate> {
    let (status, now) = (live.status(), live.now());
    let snapshot = live.subscribe().latest()?;
    let usable_from = snapshot.obtained_at().max(snapshot.not_before());
    let lifetime = snapshot.not_after().duration_since(usable_from);
    Some(Certificate {
        generation: snapshot.generation(),
        serial: snapshot.serial().to_string(),
        state: status.state,
        lifetime: lifetime.unwrap_or_default(),
        remaining: snapshot.remaining(now),
        next_fetch: status
            .next_fetch
            .map(|at| at.duration_since(now).unwrap_or_default()),
        failures: status.consecutive_failures,
    })
}

/// The whole terminal. Dropping it restores the previous state; ratatui's hook does so after a panic.
struct Screen {
    terminal: DefaultTerminal,
    events: mpsc::UnboundedReceiver<io::Result<Event>>,
}

/// Input that has a meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Quit,
    Key(char),
}

/// Whether standard input and output are a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

impl Screen {
    fn take() -> anyhow::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let terminal = ratatui::try_init()?;
        let screen = Self { terminal, events };
        // Reading blocks, so it has its own thread, which ends with the process.
        thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || while sender.send(event::read()).is_ok() {})?;
        Ok(screen)
    }

    fn show(&mut self, view: &View) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(frame, view))?;
        Ok(())
    }

    /// Waits for the next input that has a meaning.
    ///
    /// # Cancel safety
    /// Cancelling loses no input.
    async fn input(&mut self) -> io::Result<Input> {
        loop {
            match self.events.recv().await {
                Some(Ok(Event::Key(key))) => {
                    if let Some(input) = meaning(key) {
                        return Ok(input);
                    }
                }
                // For example a new size: the next drawing fits it.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn meaning(key: KeyEvent) -> Option<Input> {
    if key.kind != KeyEventKind::Press {
        return None;
    }
    match key.code {
        // In raw mode the terminal sends no signal for Ctrl-C.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Input::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Input::Quit),
        KeyCode::Char(key) => Some(Input::Key(key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_c_quits_and_c_alone_does_not() {
        let key = |modifiers| meaning(KeyEvent::new(KeyCode::Char('c'), modifiers));
        assert_eq!(key(KeyModifiers::CONTROL), Some(Input::Quit));
        assert_eq!(key(KeyModifiers::NONE), Some(Input::Key('c')));
    }
}
