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

/// Replaces the file with `content`, or leaves it as it is.
///
/// A link is replaced, never followed. The content is on disk when this returns.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file")
    })?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = path.with_file_name(draft_name);

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
        let _ = fs::remove_file(&draft);
        return written;
    }
    // So that the new name survives a power cut; not every file system supports it.
    #[cfg(unix)]
    {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

/// One file, which is written on a thread of its own.
///
/// The thread runs only while there is something to write: one write at a time, and of the texts
/// that come meanwhile only the newest.
#[derive(Default)]
pub(super) struct SavedFile {
    pub(super) path: PathBuf,
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
            path,
            ..Self::default()
        })
    }

    /// Reads the file; `None` if it does not exist. Blocks.
    ///
    /// A file that others may read gets the mode 600 first, with a warning. That also proves that
    /// the file is ours: only its owner may change its mode.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, BoxError> {
        #[cfg(test)]
        drop(self.hang.lock());
        let found = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if found.is_symlink() {
            return Err("it is a link".into());
        }
        if !found.is_file() {
            return Err("it is not a regular file".into());
        }
        let file = File::open(&self.path)?;
        let opened = file.metadata()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            if (found.dev(), found.ino()) != (opened.dev(), opened.ino()) {
                return Err("it was replaced while it was opened".into());
            }
            let mode = opened.mode() & 0o777;
            if mode & 0o022 != 0 {
                return Err("users other than its owner may write it".into());
            }
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            if mode & 0o077 != 0 {
                tracing::warn!(
                    path = %self.path.display(),
                    mode = format_args!("{mode:o}"),
                    "other users could read the saved certificate and its key; set its mode to 600"
                );
            }
        }
        if opened.len() > LARGEST_FILE {
            return Err(format!("it is larger than {LARGEST_FILE} bytes").into());
        }
        Ok(Some(read_at_most(file, opened.len(), LARGEST_FILE)?))
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
            if let Err(error) = write(&self.path, &text) {
                self.warn("failed to write the file", Some(&error));
            }
        }
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
            tracing::warn!(path = %self.path.display(), problem, error, "certificate not saved");
        }
    }
}
