//! The terminal: taken for the live view, and given back however that ends.

use std::io::{self, IsTerminal};
use std::thread;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use crate::view::{self, View};

/// The whole terminal. Dropped, it is as it was before; after a panic too, by ratatui's own hook.
pub(crate) struct Screen {
    terminal: DefaultTerminal,
    keys: mpsc::UnboundedReceiver<io::Result<Event>>,
}

/// What somebody at the keyboard wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Quit,
    Key(char),
}

/// Whether there is somebody to see it, and a keyboard.
pub(crate) fn is_there() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

impl Screen {
    pub(crate) fn take() -> anyhow::Result<Self> {
        let (tell, keys) = mpsc::unbounded_channel();
        let terminal = ratatui::try_init()?;
        let screen = Self { terminal, keys };
        // Reading blocks: a thread of its own, which ends with the program.
        thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || while tell.send(event::read()).is_ok() {})?;
        Ok(screen)
    }

    pub(crate) fn show(&mut self, view: &View) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(frame, view))?;
        Ok(())
    }

    /// The next key that means something.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub(crate) async fn wish(&mut self) -> io::Result<Wish> {
        loop {
            match self.keys.recv().await {
                Some(Ok(Event::Key(key))) => {
                    if let Some(wish) = meaning(key) {
                        return Ok(wish);
                    }
                }
                // A new size: the next drawing fits it.
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

fn meaning(key: KeyEvent) -> Option<Wish> {
    if key.kind != KeyEventKind::Press {
        return None;
    }
    match key.code {
        // In raw mode the terminal makes no signal of it.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char(key) => Some(Wish::Key(key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_c_quits_and_c_alone_does_not() {
        let key = |modifiers| meaning(KeyEvent::new(KeyCode::Char('c'), modifiers));
        assert_eq!(key(KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!(key(KeyModifiers::NONE), Some(Wish::Key('c')));
    }
}
