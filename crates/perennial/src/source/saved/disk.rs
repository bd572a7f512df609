//! Reads and writes a file with a private key: for its owner alone, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::source::input::{LARGEST_FILE, read_at_most};

/// Why a saved file is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsafe {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is a link")]
    Link,
    #[error("it is not a regular file")]
    Irregular,
    #[error("it is larger than {LARGEST_FILE} bytes")]
    TooLarge,
    #[error("users other than its owner may write it")]
    WritableByOthers,
    #[error("it was replaced while it was opened")]
    Replaced,
}

/// Reads the file; `None` if it does not exist.
///
/// A file that others may read gets the mode 600 first, with a warning. That also proves that the
/// file is ours: only its owner may change its mode.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Unsafe> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if found.is_symlink() {
        return Err(Unsafe::Link);
    }
    if !found.is_file() {
        return Err(Unsafe::Irregular);
    }
    let file = File::open(path)?;
    let opened = file.metadata()?;
    check_owner_only(&file, path, &found, &opened)?;
    if opened.len() > LARGEST_FILE {
        return Err(Unsafe::TooLarge);
    }
    Ok(Some(read_at_most(file, opened.len(), LARGEST_FILE)?))
}

#[cfg(unix)]
fn check_owner_only(
    file: &File,
    path: &Path,
    found: &fs::Metadata,
    opened: &fs::Metadata,
) -> Result<(), Unsafe> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if (found.dev(), found.ino()) != (opened.dev(), opened.ino()) {
        return Err(Unsafe::Replaced);
    }
    let mode = opened.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(Unsafe::WritableByOthers);
    }
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format_args!("{mode:o}"),
            "other users could read the saved certificate and its key; set its mode to 600"
        );
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_owner_only(
    _file: &File,
    _path: &Path,
    _found: &fs::Metadata,
    _opened: &fs::Metadata,
) -> Result<(), Unsafe> {
    Ok(())
}

/// Replaces the file with `content`, or leaves it as it is.
///
/// A link is replaced, never followed. The content is on disk when this returns.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file")
    })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = Draft(folder.join(draft_name));

    let mut options = OpenOptions::new();
    // `create_new` never opens an existing file or link.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft.0)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft.0, path)?;
    // So that the new name survives a power cut; not every file system supports it.
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Removes a draft that did not replace the file.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // Fails after the rename.
        let _ = fs::remove_file(&self.0);
    }
}

/// How long dropping a [`SavedFile`] waits for a write under way.
const DROP_LIMIT: Duration = Duration::from_secs(2);

/// One file, which is written on a thread of its own.
///
/// The thread runs only while there is something to write: one write at a time, and of the texts
/// that come meanwhile only the newest.
pub(super) struct SavedFile(Arc<Desk>);

/// What the file's owner and its thread share.
pub(super) struct Desk {
    path: PathBuf,
    state: Mutex<State>,
    idle: Condvar,
    /// Held by a test, it makes the disk hang.
    #[cfg(test)]
    pub(super) hang: Mutex<()>,
}

#[derive(Default)]
struct State {
    waiting: Option<Zeroizing<String>>,
    is_running: bool,
    has_warned: bool,
}

impl SavedFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Arc::new(Desk {
            path,
            state: Mutex::default(),
            idle: Condvar::new(),
            #[cfg(test)]
            hang: Mutex::default(),
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.0)
    }

    /// Never blocks: the file is written later.
    pub(super) fn write(&self, text: Zeroizing<String>) {
        let mut state = self.0.state();
        state.waiting = Some(text);
        if state.is_running {
            return;
        }
        let desk = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("perennial-saved".to_owned());
        let started = thread.spawn(move || desk.run());
        state.is_running = started.is_ok();
        drop(state);
        if let Err(error) = started {
            self.warn("failed to start a thread", Some(&error));
        }
    }

    /// Warns once: the certificate is in use all the same, and the next start fetches.
    pub(super) fn warn(&self, problem: &str, error: Option<&io::Error>) {
        self.0.warn(problem, error);
    }
}

impl Drop for SavedFile {
    fn drop(&mut self) {
        if !self.0.is_idle_within(DROP_LIMIT) {
            self.warn("the write has not finished", None);
        }
    }
}

impl Desk {
    /// Reads the file; `None` if it does not exist. Blocks.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Unsafe> {
        #[cfg(test)]
        drop(self.hang.lock());
        read(&self.path)
    }

    fn run(&self) {
        loop {
            let mut state = self.state();
            let Some(text) = state.waiting.take() else {
                state.is_running = false;
                self.idle.notify_all();
                return;
            };
            drop(state);
            #[cfg(test)]
            drop(self.hang.lock());
            if let Err(error) = write(&self.path, text.as_bytes()) {
                self.warn("failed to write the file", Some(&error));
            }
        }
    }

    pub(super) fn is_idle_within(&self, limit: Duration) -> bool {
        let running = |state: &mut State| state.is_running;
        let waited = self.idle.wait_timeout_while(self.state(), limit, running);
        let (state, _timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.is_running
    }

    fn warn(&self, problem: &str, error: Option<&io::Error>) {
        if std::mem::replace(&mut self.state().has_warned, true) {
            return;
        }
        let error = error.map(tracing::field::display);
        tracing::warn!(path = %self.path.display(), problem, error, "certificate not saved");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
