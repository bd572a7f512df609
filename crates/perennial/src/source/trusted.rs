//! Files that are trusted because of where they lie: only their owner can have written them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::BoxError;

/// A file that passed the checks, opened once. Nothing about it has been changed.
pub(super) struct Trusted {
    pub(super) file: File,
    pub(super) length: u64,
    mode: u32,
}

/// Opens a file and checks that no other user can have written it; `None` if it does not exist.
pub(super) fn open(path: &Path) -> Result<Option<Trusted>, BoxError> {
    let file = match no_follow(OpenOptions::new().read(true)).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) => {
            return Err("it is a link".into());
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err("it is not a regular file".into());
    }
    #[cfg(unix)]
    let mode = {
        use std::os::unix::fs::MetadataExt;
        let facts = Facts {
            owner: found.uid(),
            links: found.nlink(),
            mode: found.mode(),
            folder_mode: fs::metadata(folder_of(path))?.mode(),
        };
        facts.check(rustix::process::geteuid().as_raw())?;
        found.mode()
    };
    #[cfg(not(unix))]
    let mode = 0;
    Ok(Some(Trusted {
        length: found.len(),
        file,
        mode,
    }))
}

#[cfg(unix)]
struct Facts {
    owner: u32,
    links: u64,
    mode: u32,
    folder_mode: u32,
}

#[cfg(unix)]
impl Facts {
    fn check(&self, me: u32) -> Result<(), &'static str> {
        const BY_ALL: u32 = 0o002;
        const STICKY: u32 = 0o1000;
        // What root writes, root may write anyway.
        if self.owner != me && self.owner != 0 {
            return Err("another user owns it");
        }
        // The other name may lie where others can write.
        if self.links != 1 {
            return Err("it has a second name (a hard link)");
        }
        // Its group may: Kubernetes gives a volume's files to the pod's group (fsGroup), and
        // only the owner or root can have given this file to a group.
        if self.mode & BY_ALL != 0 {
            return Err("all users may write it");
        }
        if self.folder_mode & (BY_ALL | STICKY) == BY_ALL {
            return Err("all users may replace the files in its folder");
        }
        Ok(())
    }
}

impl Trusted {
    /// Gives the file the mode 600 if it has another, and warns of it: others may have read it.
    ///
    /// A mode that cannot be changed, as on a read-only mount, is a warning too.
    pub(super) fn close_to_others(&self, shown: &str) {
        #[cfg(unix)]
        if self.mode & 0o077 != 0 {
            use std::os::unix::fs::PermissionsExt;
            let changed = self.file.set_permissions(fs::Permissions::from_mode(0o600));
            let error = changed.err();
            let error = error.as_ref().map(tracing::field::display);
            tracing::warn!(
                path = shown,
                mode = format_args!("{:o}", self.mode & 0o777),
                error,
                "other users may read the saved certificate and its key; its mode must be 600"
            );
        }
        #[cfg(not(unix))]
        let _ = (shown, self.mode);
    }
}

/// Held by one process at a time, for one file; ends with the process.
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock next to this file, or returns `None` while another process holds it.
///
/// # Errors
/// The folder cannot be written, or its file system has no locks.
pub(super) fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = no_follow(&mut options).open(beside(path, "lock")?)?;
    #[cfg(unix)]
    {
        use rustix::fs::{FlockOperation, flock};
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
    }
    Ok(Some(Lock { _file: file }))
}

/// For the owner alone, never through a link, and without waiting for a pipe's other end.
fn no_follow(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits() as i32);
    }
    options
}

/// The hidden file next to this one that has this purpose.
pub(super) fn beside(path: &Path, purpose: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file")
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(purpose);
    Ok(path.with_file_name(hidden))
}

pub(super) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Scenario: F6
    #[test]
    fn only_what_its_owner_alone_can_have_written_is_trusted() {
        const ME: u32 = 1_000;
        let good = || Facts {
            owner: ME,
            links: 1,
            mode: 0o100_600,
            folder_mode: 0o40_755,
        };
        type Change = fn(&mut Facts);
        let table: [(Change, Option<&str>); 10] = [
            (|_| {}, None),
            (|facts| facts.owner = 0, None),
            (|facts| facts.owner = 65_534, Some("another user owns it")),
            (|facts| facts.links = 2, Some("a second name")),
            (|facts| facts.mode = 0o100_644, None),
            // As the kubelet does for fsGroup.
            (|facts| facts.mode = 0o100_660, None),
            (|facts| facts.mode = 0o100_602, Some("all users may write")),
            (|facts| facts.folder_mode = 0o42_775, None),
            (|facts| facts.folder_mode = 0o41_777, None),
            (|facts| facts.folder_mode = 0o40_777, Some("in its folder")),
        ];
        for (at, (change, refusal)) in table.into_iter().enumerate() {
            let mut facts = good();
            change(&mut facts);
            match (facts.check(ME), refusal) {
                (Ok(()), None) => {}
                (Err(found), Some(expected)) => assert!(found.contains(expected), "{at}: {found}"),
                (found, _) => panic!("row {at}: {found:?}"),
            }
        }
        // Root's own file is root's, and no other user's is.
        assert!(good().check(0).is_err());
    }
}
