//! Reads and writes the file that holds a private key: owner only, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::source::input::LARGEST_FILE;

/// Why a saved file is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsafe {
    #[error("the file system refuses")]
    Io(#[from] io::Error),
    #[error("it is a link; it must be a file of its own")]
    Link,
    #[error("it is no regular file")]
    NoFile,
    #[error("it is larger than {LARGEST_FILE} bytes")]
    TooLarge,
    #[error("others than its owner can write it")]
    WritableByOthers,
    #[error("it was exchanged while it was opened")]
    Exchanged,
}

/// Reads a saved file; `None` if there is none.
///
/// A file that others can read is made the owner's alone first, with a warning. That also shows
/// that it is ours: nobody changes the mode of another's file.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Unsafe> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if found.is_symlink() {
        return Err(Unsafe::Link);
    }
    if !found.is_file() {
        return Err(Unsafe::NoFile);
    }
    let file = File::open(path)?;
    let opened = file.metadata()?;
    check_owner_only(&file, path, &found, &opened)?;
    if opened.len() > LARGEST_FILE {
        return Err(Unsafe::TooLarge);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(opened.len() as usize + 1));
    file.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
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
        return Err(Unsafe::Exchanged);
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
            "others could read the saved certificate and its key; its mode is 600 now"
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

/// Puts `content` in the place of the file, or leaves what is there as it is.
///
/// A link in its place is replaced, never followed. On disk when this returns.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = Draft(folder.join(draft_name));

    let mut options = OpenOptions::new();
    // `create_new` opens nothing that somebody put there, link or file.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft.0)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft.0, path)?;
    // So that the new name outlasts a power cut; some file systems cannot, and none need to.
    #[cfg(unix)]
    let _best_effort = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Removes a draft that did not take its place.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is none.
        let _gone = fs::remove_file(&self.0);
    }
}
