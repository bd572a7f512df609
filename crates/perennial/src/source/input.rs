//! What a source reads at each fetch: bounded, regular files only, and named in every error.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::SourceError;

/// No file larger than this is read, in bytes: a system's whole set of roots has 250 kB.
pub const LARGEST_FILE: u64 = 4 << 20;

/// One thing to read.
#[derive(Clone)]
pub(super) struct Input {
    pub(super) place: Place,
    content: Content,
}

#[derive(Clone)]
enum Content {
    File(PathBuf),
    Bytes(Arc<Zeroizing<Vec<u8>>>),
    #[cfg(feature = "encrypted-keys")]
    Variable(OsString),
}

impl Input {
    pub(super) fn file(path: PathBuf) -> Self {
        Self {
            place: Place::File(path.clone()),
            content: Content::File(path),
        }
    }

    pub(super) fn bytes(place: Place, bytes: Zeroizing<Vec<u8>>) -> Self {
        Self {
            place,
            content: Content::Bytes(Arc::new(bytes)),
        }
    }

    pub(super) fn file_of_variable(variable: OsString, path: PathBuf) -> Self {
        Self {
            place: Place::FileOfVariable(variable),
            content: Content::File(path),
        }
    }

    /// A variable that is looked up at each fetch.
    #[cfg(feature = "encrypted-keys")]
    pub(super) fn variable(name: OsString) -> Self {
        Self {
            place: Place::Variable(name.clone()),
            content: Content::Variable(name),
        }
    }

    #[cfg(feature = "watch")]
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.content {
            Content::File(path) => Some(path),
            _ => None,
        }
    }

    pub(super) fn read(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let bytes = match &self.content {
            Content::File(path) => read_file(path),
            Content::Bytes(bytes) => Ok(Zeroizing::clone(bytes)),
            #[cfg(feature = "encrypted-keys")]
            Content::Variable(name) => match std::env::var_os(name) {
                Some(value) => Ok(Zeroizing::new(value.into_encoded_bytes())),
                None => Err(Unreadable::NotSet),
            },
        };
        bytes.map_err(|cause| {
            let kind = cause.kind();
            kind(Box::new(Reading::from(&self.place, cause)))
        })
    }
}

/// Where something is read from, as an error names it. Never shows a variable's value.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    Variable(OsString),
    FileOfVariable(OsString),
    /// Given by the program itself.
    #[cfg(feature = "encrypted-keys")]
    Program,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A key given where its path belongs must not end up in a log.
            Self::File(path) if path.as_os_str().len() > LONGEST_SHOWN || has_pem(path) => {
                f.write_str("a path that is no path")
            }
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => write!(f, "the variable {}", name.display()),
            Self::FileOfVariable(name) => {
                write!(f, "the file that the variable {} names", name.display())
            }
            #[cfg(feature = "encrypted-keys")]
            Self::Program => f.write_str("what the program gave"),
        }
    }
}

/// No longer path can be opened (Linux: PATH_MAX).
const LONGEST_SHOWN: usize = 4_096;

fn has_pem(path: &Path) -> bool {
    path.to_string_lossy().contains("-----BEGIN")
}

/// The layer of an error that says where.
#[derive(Debug)]
pub(super) struct Reading {
    place: String,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl Reading {
    pub(super) fn from(
        place: &impl fmt::Display,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            place: place.to_string(),
            cause: cause.into(),
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reading {}", self.place)
    }
}

impl std::error::Error for Reading {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("the file system refuses")]
    Io(#[source] io::Error),
    #[error("it is a folder; name the file in it")]
    Folder,
    #[error("it is a pipe, socket or device; only regular files are read")]
    NoFile,
    #[error("it is larger than {LARGEST_FILE} bytes; no certificate or key is")]
    TooLarge,
    #[error("it is empty")]
    Empty,
    #[cfg(feature = "encrypted-keys")]
    #[error("it is not set")]
    NotSet,
}

impl Unreadable {
    /// What is missing or empty may be about to be written: waiting can cure it.
    fn kind(&self) -> fn(Box<Reading>) -> SourceError {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                |cause| SourceError::denied(cause)
            }
            Self::Io(_) | Self::Empty => |cause| SourceError::unavailable(cause),
            _ => |cause| SourceError::invalid(cause),
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    // Looked at before it is opened: to open a pipe waits for its writer.
    let found = fs::metadata(path).map_err(Unreadable::Io)?;
    if found.is_dir() {
        return Err(Unreadable::Folder);
    }
    if !found.is_file() {
        return Err(Unreadable::NoFile);
    }
    if found.len() > LARGEST_FILE {
        return Err(Unreadable::TooLarge);
    }
    let file = File::open(path).map_err(Unreadable::Io)?;
    // One byte more than it said, so that the buffer need not grow and leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(found.len() as usize + 1));
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(Unreadable::Io)?;
    match bytes.len() as u64 {
        0 => Err(Unreadable::Empty),
        length if length > LARGEST_FILE => Err(Unreadable::TooLarge),
        _ => Ok(bytes),
    }
}
