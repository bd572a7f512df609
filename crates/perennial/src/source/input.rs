//! What one certificate is read from: bounded, regular files, named in every error.

#[cfg(feature = "encrypted-keys")]
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::shown::shown;
use crate::clock::Clock;
use crate::digest::digest;
use crate::error::{BoxError, SourceError};
use crate::material::{CertMaterial, Certificate, MaterialError, formats, part};
use crate::tls::{default_provider, load_pair};

/// The largest file that is read, in bytes: a system's whole set of roots has 250 kB.
pub(super) const LARGEST_FILE: u64 = 4 << 20;

/// How often files are read again that change while they are being read.
const MOST_READS: usize = 4;

/// How long after its last change a file that is cut off may still be being written.
const MAY_BE_WRITTEN_FOR: Duration = Duration::from_secs(10);

/// One thing to read. Displayed as errors name it, never with its content.
#[derive(Clone)]
pub(super) struct Input {
    name: String,
    place: Place,
}

#[derive(Clone)]
pub(super) enum Place {
    File(PathBuf),
    Bytes(Arc<Zeroizing<Vec<u8>>>),
    /// A variable that is looked up when it is read.
    #[cfg(feature = "encrypted-keys")]
    Variable(OsString),
}

impl Input {
    pub(super) fn new(name: impl Into<String>, place: Place) -> Self {
        let name = name.into();
        Self { name, place }
    }

    pub(super) fn file(path: PathBuf) -> Self {
        let name = shown(&path);
        Self::new(name, Place::File(path))
    }

    #[cfg(feature = "watch")]
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            _ => None,
        }
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let bytes = match &self.place {
            Place::File(path) => read_file(path),
            Place::Bytes(bytes) => Ok(Zeroizing::clone(bytes)),
            #[cfg(feature = "encrypted-keys")]
            Place::Variable(name) => match std::env::var_os(name) {
                Some(value) => Ok(Zeroizing::new(value.into_encoded_bytes())),
                None => Err(Unreadable::Other("it is not set")),
            },
        };
        bytes.map_err(|cause| {
            let kind = cause.kind();
            kind(Reading::of(self, cause))
        })
    }

    /// The error for content that cannot be used.
    ///
    /// Waiting cures it only where a writer may be at work: a mistake must fail at once.
    fn refuse(&self, cause: MaterialError) -> SourceError {
        use MaterialError::{CutOff, Missing, Truncated};
        let is_unfinished = matches!(cause, CutOff { .. } | Truncated { .. } | Missing { .. });
        let reading = Reading::of(self, cause);
        if is_unfinished && self.may_be_being_written() {
            SourceError::unavailable(reading)
        } else {
            SourceError::invalid(reading)
        }
    }

    fn may_be_being_written(&self) -> bool {
        let Place::File(path) = &self.place else {
            return false;
        };
        let changed = fs::metadata(path).and_then(|found| found.modified());
        let age = changed.map(|at| Clock::default().now().duration_since(at));
        // A change in the future is one by a clock that is ahead of ours.
        !matches!(age, Ok(Ok(age)) if age > MAY_BE_WRITTEN_FOR)
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The layer of an error that names the place.
#[derive(Debug, thiserror::Error)]
#[error("reading {place}")]
struct Reading {
    place: String,
    #[source]
    cause: BoxError,
}

impl Reading {
    fn of(place: &impl fmt::Display, cause: impl Into<BoxError>) -> Self {
        let (place, cause) = (place.to_string(), cause.into());
        Self { place, cause }
    }
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is larger than {LARGEST_FILE} bytes; no certificate or key is")]
    TooLarge,
    #[error("it is empty")]
    Empty,
    #[error("{0}")]
    Other(&'static str),
}

impl Unreadable {
    /// A missing or empty file may be about to be written: waiting can cure it.
    fn kind(&self) -> fn(Reading) -> SourceError {
        use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, PermissionDenied};
        match self {
            Self::Io(error) if error.kind() == PermissionDenied => {
                |cause| SourceError::denied(cause)
            }
            // No file can be there.
            Self::Io(error)
                if matches!(error.kind(), InvalidFilename | InvalidInput | NotADirectory) =>
            {
                |cause| SourceError::invalid(cause)
            }
            Self::Io(_) | Self::Empty => |cause| SourceError::unavailable(cause),
            _ => |cause| SourceError::invalid(cause),
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    // Examined before it is opened: opening a pipe waits for its writer.
    let found = fs::metadata(path)?;
    if found.is_dir() {
        let problem = "it is a folder; name the file in it";
        return Err(Unreadable::Other(problem));
    }
    if !found.is_file() {
        let problem = "it is a pipe, socket or device; only regular files are read";
        return Err(Unreadable::Other(problem));
    }
    if found.len() > LARGEST_FILE {
        return Err(Unreadable::TooLarge);
    }
    let bytes = read_at_most(&File::open(path)?, found.len(), LARGEST_FILE + 1)?;
    match bytes.len() as u64 {
        0 => Err(Unreadable::Empty),
        length if length > LARGEST_FILE => Err(Unreadable::TooLarge),
        _ => Ok(bytes),
    }
}

/// Reads a file of about `length` bytes that may hold a key.
pub(super) fn read_at_most(file: &File, length: u64, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // One byte more than the length: a buffer that grows leaves copies of the key in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Everything that one certificate is read from.
#[derive(Clone)]
pub(super) struct Inputs {
    pub(super) chain: Input,
    /// `None`: the key is in the same place as the chain.
    pub(super) key: Option<Input>,
    pub(super) roots: Vec<Input>,
    pub(super) passphrase: Option<Input>,
}

/// The bytes that were read, in the order of [`Inputs::all`].
pub(super) struct Contents(Vec<Zeroizing<Vec<u8>>>);

impl Contents {
    /// Over chain, key, roots and passphrase: a change of any is a change.
    pub(super) fn digest(&self) -> [u8; 32] {
        digest(self.0.iter().map(|bytes| bytes.as_slice()))
    }
}

impl Inputs {
    pub(super) fn new(chain: Input, key: Option<Input>, roots: Vec<Input>) -> Self {
        Self {
            chain,
            key,
            roots,
            passphrase: None,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Input> {
        let inputs = [&self.chain].into_iter().chain(&self.key);
        inputs.chain(&self.roots).chain(&self.passphrase)
    }

    /// Reads until two readings agree, so that a pair that is replaced between the reading of the
    /// one and of the other is not taken for a torn one. Blocks.
    pub(super) fn read(&self) -> Result<Contents, SourceError> {
        let read_once = || self.all().map(Input::read).collect::<Result<_, _>>();
        let mut last = Contents(read_once()?);
        for _ in 1..MOST_READS {
            let next = Contents(read_once()?);
            if next.digest() == last.digest() {
                break;
            }
            last = next;
        }
        Ok(last)
    }

    /// Makes material of the bytes, and makes the checks whose error can still name the file.
    pub(super) fn material(&self, contents: &Contents) -> Result<CertMaterial, SourceError> {
        let mut contents = contents.0.iter();
        let mut next = || contents.next().map_or(&[][..], |bytes| bytes.as_slice());

        let chain_bytes = next();
        let (key_input, key_bytes) = match &self.key {
            Some(key) => (key, next()),
            None => (&self.chain, chain_bytes),
        };
        let roots_bytes: Vec<_> = self.roots.iter().map(|_| next()).collect();
        let passphrase = self.passphrase.as_ref().map(|input| match input.place {
            Place::File(_) => without_line_end(next()),
            _ => next(),
        });
        let chain = certificates(part::CHAIN, &self.chain, chain_bytes, passphrase)?;
        let mut roots = Vec::new();
        for (input, bytes) in self.roots.iter().zip(roots_bytes) {
            roots.extend(certificates(part::ROOTS, input, bytes, passphrase)?);
        }
        let key = formats::private_key(key_bytes, passphrase);
        let key = key.map_err(|cause| key_input.refuse(cause))?;

        // Without a default provider, the core finds a key of another certificate.
        if let Some(provider) = default_provider() {
            let pair = load_pair(&provider, chain.clone(), key.clone_key());
            pair.map_err(|cause| match &self.key {
                Some(key) => at(&format!("{} and {key}", self.chain), cause),
                None => at(&self.chain, cause),
            })?;
        }
        Ok(CertMaterial::with_key(chain, key, roots)?.read_from(&self.chain))
    }
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.all().map(Input::to_string))
            .finish()
    }
}

fn certificates(
    part: &'static str,
    input: &Input,
    bytes: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let found =
        formats::certificates(part, bytes, passphrase).map_err(|cause| input.refuse(cause))?;
    for (index, der) in found.iter().enumerate() {
        Certificate::in_part(part, index, der).map_err(|cause| at(input, cause))?;
    }
    Ok(found)
}

fn at(place: &impl fmt::Display, cause: MaterialError) -> SourceError {
    SourceError::invalid(Reading::of(place, cause))
}

/// Editors and `echo` end a passphrase's file with a line end that does not belong to it, and
/// editors of Windows begin it with a byte order mark.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
