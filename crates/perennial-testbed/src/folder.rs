//! The folder of one server, and the user who owns it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::TestbedError;

/// Environment variable: if set to anything, every server's logs are kept.
pub const KEEP: &str = "PERENNIAL_KEEP";

/// The longest folder path that leaves room for a Unix socket: the kernel allows 107 bytes, the socket's name needs 22.
const LONGEST: usize = 80;

/// The folder of one server: logs at the top, everything else in `private`.
///
/// Dropping it removes the folder. If the thread panics or [`KEEP`] is set, it removes only `private`, so keys are
/// never kept.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Creates a folder that only `owner` can enter; the default owner is the current user.
    pub(crate) fn create(name: &str, owner: Option<&Account>) -> Result<Self, TestbedError> {
        let parent = parent(owner);
        let path = tempfile::Builder::new()
            .prefix(&format!("perennial-{name}-"))
            // Regardless of the umask: the superuser's socket in this folder needs no password.
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

    /// The part that is removed even if the logs are kept.
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
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).map_err(TestbedError::at(path))?;
        file.write_all(content.as_bytes())
            .map_err(TestbedError::at(path))?;
        self.give(path, owner)
    }

    pub(crate) fn give(&self, path: &Path, owner: Option<&Account>) -> Result<(), TestbedError> {
        let Some(owner) = owner else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))
            .map_err(TestbedError::at(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() || logs_are_kept() {
            remove(&self.private());
            print_path(&self.path);
        } else {
            remove(&self.path);
        }
    }
}

pub(crate) fn logs_are_kept() -> bool {
    std::env::var_os(KEEP).is_some()
}

/// Removes a folder; retries, because a process that is about to end may still write into it.
fn remove(path: &Path) {
    for _ in 0..20 {
        if fs::remove_dir_all(path).is_ok() || !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    tracing::warn!(path = %path.display(), "failed to remove the folder");
}

#[expect(
    clippy::print_stderr,
    reason = "a failed test must show where its logs are, with or without a tracing subscriber"
)]
fn print_path(path: &Path) {
    eprintln!("logs kept in {}", path.display());
}

/// The system's temporary folder, or /tmp if that one is too long for a socket or closed to the owner.
fn parent(owner: Option<&Account>) -> PathBuf {
    let temporary = std::env::temp_dir();
    let short = temporary.as_os_str().len() <= LONGEST;
    if short && (owner.is_none() || open_to_all(&temporary)) {
        temporary
    } else {
        PathBuf::from("/tmp")
    }
}

/// Whether every user can enter a folder: each of its parents must allow it too.
pub(crate) fn open_to_all(path: &Path) -> bool {
    path.ancestors()
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
        .all(|ancestor| {
            fs::metadata(ancestor).is_ok_and(|data| data.permissions().mode() & 0o001 != 0)
        })
}

/// The user that Postgres and pgbouncer run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// An unprivileged user if this process runs as root, because Postgres refuses to run as root; otherwise `None`.
    pub(crate) fn for_postgres() -> Result<Option<Self>, TestbedError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let path = "/etc/passwd";
        let accounts = fs::read_to_string(path).map_err(TestbedError::at(path))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::named(name, &accounts))
            .map(Some)
            .ok_or(TestbedError::NoUser)
    }

    fn named(name: &str, accounts: &str) -> Option<Self> {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            // name:password:uid:gid:…
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_found_by_its_whole_name() {
        let accounts =
            "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:7::/:\npostgres:x:101:104::/:\n";
        let found = Account::named("postgres", accounts);
        assert_eq!(found, Some(Account { uid: 101, gid: 104 }));
        assert_eq!(Account::named("nobody", accounts), None);
    }
}
