//! Reads and writes a file with a private key: for its owner alone, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use super::lock;
use crate::error::BoxError;
use crate::source::input::{LARGEST_FILE, read_at_most};
use crate::source::shown::{may_be_secret, shown};
use crate::source::trusted::{self, Lock, beside, folder_of};

/// How often a held lock is tried again.
pub(super) const LOCK_POLL: Duration = Duration::from_millis(50);

/// How long a write waits for other processes that write the same file.
const WRITE_WAIT: Duration = Duration::from_secs(30);

/// Replaces the file with `content`, or leaves it as it is.
///
/// A link is replaced, never followed. The content is on disk when this returns.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = beside(path, "draft")?;
    // A process that was killed may have left one, with a key in it.
    remove(&draft)?;
    let mut options = OpenOptions::new();
    // `create_new` never opens an existing file or link.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = remove(&draft);
        return written;
    }
    // So that the new name survives a power cut; not every file system supports it.
    #[cfg(unix)]
    let _ = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

fn remove(draft: &Path) -> io::Result<()> {
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// One file, which is written on a thread of its own.
///
/// The thread runs only while there is something to write: one write at a time, and of the texts
/// that come meanwhile only the newest.
#[derive(Default)]
pub(super) struct SavedFile {
    path: PathBuf,
    /// The path for logs.
    pub(super) shown: String,
    /// From a start that found nothing to use until its certificate is written: other processes
    /// that start meanwhile wait for it instead of issuing their own.
    start: Mutex<Option<Lock>>,
    state: Mutex<State>,
    idle: Condvar,
    has_warned: AtomicBool,
    /// Held by a test, it makes the disk hang.
    #[cfg(test)]
    pub(super) hang: Mutex<()>,
}

#[derive(Default)]
struct State {
    waiting: Option<Zeroizing<Vec<u8>>>,
    is_running: bool,
}

impl SavedFile {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            shown: shown(&path),
            path,
            ..Self::default()
        })
    }

    /// Fails for a key that was given instead of a path: files next to it would be named after it.
    pub(super) fn check_path(&self) -> Result<(), &'static str> {
        match may_be_secret(self.path.as_os_str().as_encoded_bytes()) {
            true => {
                Err("saved_at got content where a path belongs; begin a relative path with \"./\"")
            }
            false => Ok(()),
        }
    }

    /// Reads the file; `None` if it does not exist. Blocks.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, BoxError> {
        #[cfg(test)]
        drop(self.hang.lock());
        let Some(found) = trusted::open(&self.path)? else {
            return Ok(None);
        };
        if found.length > LARGEST_FILE {
            return Err(format!("it is larger than {LARGEST_FILE} bytes").into());
        }
        let text = read_at_most(&found.file, found.length, LARGEST_FILE)?;
        found.close_to_others(&self.shown);
        Ok(Some(text))
    }

    /// The lock of this file, also against other processes. Blocks for a moment.
    ///
    /// With it, what a killed process left of its writing is removed.
    pub(super) fn try_lock(&self) -> io::Result<Option<Lock>> {
        let lock = trusted::try_lock(&self.path)?;
        if lock.is_some() {
            let _ = beside(&self.path, "draft").and_then(|draft| remove(&draft));
        }
        Ok(lock)
    }

    /// Keeps the lock until the next write has ended; drops the one that it kept before.
    pub(super) fn keep_until_written(&self, start: Option<Lock>) {
        *lock(&self.start) = start;
    }

    /// Never blocks: the file is written later.
    pub(super) fn write(self: &Arc<Self>, text: Zeroizing<Vec<u8>>) {
        let mut state = lock(&self.state);
        state.waiting = Some(text);
        if state.is_running {
            return;
        }
        let file = Arc::clone(self);
        let thread = std::thread::Builder::new().name("perennial-saved".to_owned());
        let started = thread.spawn(move || file.run());
        state.is_running = started.is_ok();
        if let Err(error) = started {
            self.warn("failed to start a thread", Some(&error));
        }
    }

    fn run(&self) {
        loop {
            let mut state = lock(&self.state);
            let Some(text) = state.waiting.take() else {
                state.is_running = false;
                return self.idle.notify_all();
            };
            drop(state);
            #[cfg(test)]
            drop(self.hang.lock());
            if let Err(error) = self.write_locked(&text) {
                self.warn("failed to write the file", Some(&error));
            }
        }
    }

    /// One process at a time: all write the same draft.
    fn write_locked(&self, text: &[u8]) -> io::Result<()> {
        let mut held = lock(&self.start).take();
        let mut waited = Duration::ZERO;
        while held.is_none() {
            match self.try_lock() {
                Ok(None) if waited < WRITE_WAIT => {
                    std::thread::sleep(LOCK_POLL);
                    waited += LOCK_POLL;
                }
                Ok(None) => {
                    let problem = "another process holds the lock";
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, problem));
                }
                Ok(lock) => held = lock,
                // Not every file system has locks.
                Err(_) => break,
            }
        }
        write(&self.path, text)
    }

    pub(super) fn is_idle_within(&self, limit: Duration) -> bool {
        let running = |state: &mut State| state.is_running;
        let waited = self
            .idle
            .wait_timeout_while(lock(&self.state), limit, running);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_running
    }

    /// Warns once: the certificate is in use all the same, and the next start fetches.
    pub(super) fn warn(&self, problem: &str, error: Option<&io::Error>) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let error = error.map(tracing::field::display);
            tracing::warn!(path = self.shown, problem, error, "certificate not saved");
        }
    }
}
