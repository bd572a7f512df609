use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::TestbedError;
use crate::postgres::Account;

/// The environment variable that, when set to anything, keeps every server's logs.
pub const KEEP: &str = "PERENNIAL_KEEP";

/// The longest folder whose Unix socket still fits: the kernel takes 107 bytes, the socket's name needs 22.
const LONGEST: usize = 80;

/// The folder of one server: logs on top, everything else in `private`.
///
/// Dropping it removes it, or only `private` when the thread panics or [`KEEP`] is set: keys are never kept.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a folder that only `owner` (by default, whoever runs this) can enter.
    pub(crate) fn create(name: &str, owner: Option<&Account>) -> Result<Self, TestbedError> {
        let parent = parent(owner);
        let path = tempfile::Builder::new()
            .prefix(&format!("perennial-{name}-"))
            // Whatever the umask says: the superuser's socket in there asks for no password.
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(TestbedError::at(&parent))?
            .keep();
        let folder = Self { path };
        folder.give(&folder.path, owner)?;
        let private = fs::DirBuilder::new().mode(0o700).create(folder.private());
        private.map_err(TestbedError::at(folder.private()))?;
        folder.give(&folder.private(), owner)?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is removed even where the logs are kept.
    pub(crate) fn private(&self) -> PathBuf {
        self.path.join("private")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// Writes a file that only `owner` can read.
    pub(crate) fn write(
        &self,
        path: &Path,
        content: &str,
        owner: Option<&Account>,
    ) -> Result<(), TestbedError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).map_err(TestbedError::at(path))?;
        file.write_all(content.as_bytes())
            .map_err(TestbedError::at(path))?;
        self.give(path, owner)
    }

    fn give(&self, path: &Path, owner: Option<&Account>) -> Result<(), TestbedError> {
        let Some(owner) = owner else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))
            .map_err(TestbedError::at(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() || kept() {
            remove(&self.private());
            tell(&self.path);
        } else {
            remove(&self.path);
        }
    }
}

pub(crate) fn kept() -> bool {
    std::env::var_os(KEEP).is_some()
}

/// Removes a folder, again where a process that is about to end still writes into it.
fn remove(path: &Path) {
    for _ in 0..20 {
        if fs::remove_dir_all(path).is_ok() || !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    tracing::warn!(path = %path.display(), "the folder could not be removed");
}

#[expect(
    clippy::print_stderr,
    reason = "a failed test must say where its logs are, with or without a tracing subscriber"
)]
fn tell(path: &Path) {
    eprintln!("logs kept in {}", path.display());
}

/// The system's temporary folder, unless it is too long for a socket or closed to the owner.
fn parent(owner: Option<&Account>) -> PathBuf {
    let temporary = std::env::temp_dir();
    let short = temporary.as_os_str().len() <= LONGEST;
    if short && (owner.is_none() || open_to_all(&temporary)) {
        temporary
    } else {
        PathBuf::from("/tmp")
    }
}

/// Says whether every user can enter a folder: each folder on the way must allow it.
pub(crate) fn open_to_all(path: &Path) -> bool {
    path.ancestors()
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
        .all(|ancestor| {
            fs::metadata(ancestor).is_ok_and(|data| data.permissions().mode() & 0o001 != 0)
        })
}
