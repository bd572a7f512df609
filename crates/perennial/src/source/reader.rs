//! The one file reader: reads what one certificate is made of, and notices when it changes.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::CacheKey;
#[cfg(feature = "watch")]
use super::watch::{Notifier, folders_on_the_way_to};
use crate::digest::digest;
use crate::error::SourceError;
use crate::material::{CertMaterial, Certificate, MaterialError, formats, part};
use crate::tls::default_provider;

/// The largest file that is read, in bytes: a system's whole set of roots has 250 kB.
pub(super) const LARGEST_FILE: u64 = 4 << 20;

/// How often files are read to find changes, with and without the system's notification.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How long a writer gets to finish before its files are read.
#[cfg(feature = "watch")]
const SETTLE: Duration = Duration::from_millis(50);

/// How often files are read again that change while they are being read.
const MOST_READS: usize = 4;

/// The longest path that an error shows: Linux opens no longer one (PATH_MAX).
const LONGEST_SHOWN: usize = 4_096;

/// The setters of every source that reads files; the source has a field `reader`.
macro_rules! reading_setters {
    () => {
        /// Decrypts the key with this passphrase, if it is encrypted PKCS#8.
        ///
        /// Wiped from memory when the source is dropped. The last passphrase setter counts.
        #[cfg(feature = "encrypted-keys")]
        #[must_use]
        pub fn passphrase(mut self, passphrase: impl Into<Vec<u8>>) -> Self {
            let bytes = zeroize::Zeroizing::new(passphrase.into());
            self.reader.passphrase = Some(Input::Given(std::sync::Arc::new(bytes)));
            self
        }

        /// Takes the passphrase from an environment variable, looked up at each fetch.
        #[cfg(feature = "encrypted-keys")]
        #[must_use]
        pub fn passphrase_env(mut self, variable: impl Into<std::ffi::OsString>) -> Self {
            self.reader.passphrase = Some(Input::Variable(variable.into()));
            self
        }

        /// Takes the passphrase from a file, without a line end at its end.
        ///
        /// Read at each fetch; a change of this file is a change of the source.
        #[cfg(feature = "encrypted-keys")]
        #[must_use]
        pub fn passphrase_file(mut self, path: impl Into<PathBuf>) -> Self {
            self.reader.passphrase = Some(Input::File(path.into()));
            self
        }

        /// Sets how often files are read to find changes: the longest time until one is noticed.
        ///
        /// # Defaults
        /// 10 s.
        ///
        /// # Errors
        /// Zero is refused at the first fetch.
        #[must_use]
        pub fn poll_every(mut self, interval: Duration) -> Self {
            self.reader.poll = interval;
            self
        }

        /// Turns the system's notification off: no watch, no thread, polling alone.
        #[must_use]
        pub fn poll_only(mut self) -> Self {
            self.reader.notification = Notification::Off;
            self
        }
    };
}
pub(super) use reading_setters;

/// One thing to read. Displayed as errors name it, never with its content.
#[derive(Clone)]
pub(super) enum Input {
    File(PathBuf),
    /// A file whose path is in a variable.
    FileOfVariable {
        variable: OsString,
        path: PathBuf,
    },
    /// The content of a variable.
    Content {
        variable: OsString,
        bytes: Arc<Zeroizing<Vec<u8>>>,
    },
    /// A variable that is looked up when it is read.
    #[cfg(feature = "encrypted-keys")]
    Variable(OsString),
    /// Bytes from the program itself.
    #[cfg(feature = "encrypted-keys")]
    Given(Arc<Zeroizing<Vec<u8>>>),
}

impl Input {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::FileOfVariable { path, .. } => Some(path),
            _ => None,
        }
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let bytes = match self {
            Self::File(path) | Self::FileOfVariable { path, .. } => read_file(path),
            Self::Content { bytes, .. } => Ok(Zeroizing::clone(bytes)),
            #[cfg(feature = "encrypted-keys")]
            Self::Given(bytes) => Ok(Zeroizing::clone(bytes)),
            #[cfg(feature = "encrypted-keys")]
            Self::Variable(name) => match std::env::var_os(name) {
                Some(value) => Ok(Zeroizing::new(value.into_encoded_bytes())),
                None => Err(Unreadable::NotSet),
            },
        };
        bytes.map_err(|cause| {
            let kind = cause.kind();
            kind(Reading::of(self, cause))
        })
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A key that was given instead of its path must not appear in a log.
            Self::File(path)
                if path.as_os_str().len() > LONGEST_SHOWN
                    || path.to_string_lossy().contains("-----BEGIN") =>
            {
                f.write_str("a path that is too long or contains PEM")
            }
            Self::File(path) => path.display().fmt(f),
            Self::FileOfVariable { variable, .. } => {
                write!(f, "the file that the variable {} names", variable.display())
            }
            Self::Content { variable, .. } => write!(f, "the variable {}", variable.display()),
            #[cfg(feature = "encrypted-keys")]
            Self::Variable(variable) => write!(f, "the variable {}", variable.display()),
            #[cfg(feature = "encrypted-keys")]
            Self::Given(_) => f.write_str("the passphrase that the program gave"),
        }
    }
}

/// The layer of an error that names the place.
#[derive(Debug, thiserror::Error)]
#[error("reading {place}")]
struct Reading {
    place: String,
    #[source]
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl Reading {
    fn of(
        place: &impl fmt::Display,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            place: place.to_string(),
            cause: cause.into(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Io(io::Error),
    #[error("it is a folder; name the file in it")]
    Folder,
    #[error("it is a pipe, socket or device; only regular files are read")]
    Irregular,
    #[error("it is larger than {LARGEST_FILE} bytes; no certificate or key is")]
    TooLarge,
    #[error("it is empty")]
    Empty,
    #[cfg(feature = "encrypted-keys")]
    #[error("it is not set")]
    NotSet,
}

impl Unreadable {
    /// A missing or empty file may be about to be written: waiting can cure it.
    fn kind(&self) -> fn(Reading) -> SourceError {
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
    // Examined before it is opened: opening a pipe waits for its writer.
    let found = fs::metadata(path).map_err(Unreadable::Io)?;
    if found.is_dir() {
        return Err(Unreadable::Folder);
    }
    if !found.is_file() {
        return Err(Unreadable::Irregular);
    }
    if found.len() > LARGEST_FILE {
        return Err(Unreadable::TooLarge);
    }
    let file = File::open(path).map_err(Unreadable::Io)?;
    let bytes = read_at_most(file, found.len(), LARGEST_FILE + 1).map_err(Unreadable::Io)?;
    match bytes.len() as u64 {
        0 => Err(Unreadable::Empty),
        length if length > LARGEST_FILE => Err(Unreadable::TooLarge),
        _ => Ok(bytes),
    }
}

/// Reads a file of about `length` bytes that may hold a key.
pub(super) fn read_at_most(file: File, length: u64, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
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
    passphrase: Option<Input>,
}

/// The bytes that were read, in the order of [`Inputs::all`].
struct Contents(Vec<Zeroizing<Vec<u8>>>);

impl Contents {
    /// Over chain, key, roots and passphrase: a change of any is a change.
    fn digest(&self) -> [u8; 32] {
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

    fn all(&self) -> impl Iterator<Item = &Input> {
        let inputs = [&self.chain].into_iter().chain(&self.key);
        inputs.chain(&self.roots).chain(&self.passphrase)
    }

    /// Reads until two readings agree, so that a pair that is replaced between the reading of the
    /// one and of the other is not taken for a torn one. Blocks.
    fn read(&self) -> Result<Contents, SourceError> {
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
    fn material(&self, contents: &Contents) -> Result<CertMaterial, SourceError> {
        let mut contents = contents.0.iter();
        let mut next = || contents.next().map_or(&[][..], |bytes| bytes.as_slice());

        let chain_bytes = next();
        let chain = certificates(part::CHAIN, &self.chain, chain_bytes)?;
        let (key_input, key_bytes) = match &self.key {
            Some(key) => (key, next()),
            None => (&self.chain, chain_bytes),
        };
        let mut roots = Vec::new();
        for input in &self.roots {
            roots.extend(certificates(part::ROOTS, input, next())?);
        }
        let passphrase = self.passphrase.as_ref().map(|input| match input {
            Input::File(_) => without_line_end(next()),
            _ => next(),
        });
        let key = formats::private_key(key_bytes, passphrase);
        let key = key.map_err(|cause| at(key_input, cause))?;

        check_pair(&chain, &key).map_err(|cause| match &self.key {
            Some(key) => at(&format!("{} and {key}", self.chain), cause),
            None => at(&self.chain, cause),
        })?;
        Ok(CertMaterial::from_der(chain, key, roots)?)
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
) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let found = formats::certificates(part, bytes).map_err(|cause| at(input, cause))?;
    for (index, der) in found.iter().enumerate() {
        Certificate::in_part(part, index, der).map_err(|cause| at(input, cause))?;
    }
    Ok(found)
}

/// Whether key and leaf belong together; the core checks it if there is no provider here.
fn check_pair(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), MaterialError> {
    let Some(provider) = default_provider() else {
        return Ok(());
    };
    let key = provider
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(MaterialError::Key)?;
    match CertifiedKey::new(chain.to_vec(), key).keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(MaterialError::KeyMismatch)
        }
        // The core reports every other problem.
        _ => Ok(()),
    }
}

fn at(place: &impl fmt::Display, cause: MaterialError) -> SourceError {
    // A writer that has not finished will do so without help.
    let unfinished = matches!(cause, MaterialError::CutOff { .. });
    let reading = Reading::of(place, cause);
    if unfinished {
        SourceError::unavailable(reading)
    } else {
        SourceError::invalid(reading)
    }
}

/// Editors and `echo` end a passphrase's file with a line end that does not belong to it.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// Whether the system is asked to notify of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notification {
    IfPossible,
    Off,
}

/// Fetches from inputs, and notices when they differ from the last fetch.
pub(super) struct Reader {
    pub(super) passphrase: Option<Input>,
    pub(super) poll: Duration,
    pub(super) notification: Notification,
    #[cfg(feature = "watch")]
    notifier: Arc<Notifier>,
    /// Digest of the last fetch; `None` before the first, or if not everything could be read.
    fetched: Mutex<Option<[u8; 32]>>,
    #[cfg(test)]
    looks: Arc<std::sync::atomic::AtomicUsize>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            passphrase: None,
            poll: POLL_INTERVAL,
            notification: Notification::IfPossible,
            #[cfg(feature = "watch")]
            notifier: Arc::default(),
            fetched: Mutex::default(),
            #[cfg(test)]
            looks: Arc::default(),
        }
    }
}

impl Reader {
    pub(super) async fn fetch(&self, inputs: &Inputs) -> Result<CertMaterial, SourceError> {
        if self.poll.is_zero() {
            let problem = "invalid poll_every 0ns: expected more than zero";
            return Err(SourceError::invalid(problem));
        }
        let inputs = self.with_passphrase(inputs);
        let (digest, material) = off_worker(move || match inputs.read() {
            Ok(contents) => (Some(contents.digest()), inputs.material(&contents)),
            Err(error) => (None, Err(error)),
        })
        .await?;
        *self.fetched() = digest;
        material
    }

    /// Resolves when everything can be read and differs from the last fetch.
    ///
    /// A missing or empty file is not a change: its writer is about to write it, or the next fetch
    /// reports it.
    pub(super) async fn changed(&self, inputs: &Inputs) {
        if self.poll.is_zero() {
            // Every fetch is refused.
            return std::future::pending().await;
        }
        let inputs = Arc::new(self.with_passphrase(inputs));
        loop {
            if let Some(seen) = self.look(&inputs).await
                && Some(seen) != *self.fetched()
            {
                return;
            }
            self.until_next_look().await;
        }
    }

    /// Over the places, not their contents.
    pub(super) fn cache_key(&self, inputs: &Inputs) -> CacheKey {
        let inputs = self.with_passphrase(inputs);
        let places: Vec<_> = inputs.all().map(Input::to_string).collect();
        CacheKey::of(places.iter().map(String::as_bytes))
    }

    fn with_passphrase(&self, inputs: &Inputs) -> Inputs {
        Inputs {
            passphrase: self.passphrase.clone(),
            ..inputs.clone()
        }
    }

    async fn look(&self, inputs: &Arc<Inputs>) -> Option<[u8; 32]> {
        let inputs = Arc::clone(inputs);
        #[cfg(feature = "watch")]
        let notifier =
            (self.notification == Notification::IfPossible).then(|| self.notifier.clone());
        let seen = off_worker(move || {
            // Watch before reading: a write between the two must be noticed.
            #[cfg(feature = "watch")]
            if let Some(notifier) = notifier {
                let paths = inputs.all().filter_map(Input::path);
                notifier.watch(paths.flat_map(folders_on_the_way_to));
            }
            inputs.read().ok().map(|contents| contents.digest())
        });
        let seen = seen.await.ok().flatten();
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        seen
    }

    #[cfg(feature = "watch")]
    async fn until_next_look(&self) {
        if self.notification == Notification::Off {
            return tokio::time::sleep(self.poll).await;
        }
        tokio::select! {
            () = tokio::time::sleep(self.poll) => {}
            // The pause also keeps a folder that is written to all the time from being read all
            // the time. If this is dropped here, the next call looks first.
            () = self.notifier.woken() => tokio::time::sleep(SETTLE.min(self.poll)).await,
        }
    }

    #[cfg(not(feature = "watch"))]
    async fn until_next_look(&self) {
        tokio::time::sleep(self.poll).await;
    }

    fn fetched(&self) -> std::sync::MutexGuard<'_, Option<[u8; 32]>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Reader {
    /// How often it has looked for changes.
    pub(super) fn looks(&self) -> Arc<std::sync::atomic::AtomicUsize> {
        Arc::clone(&self.looks)
    }

    #[cfg(feature = "watch")]
    pub(super) fn watcher(&self) -> std::sync::Weak<tokio::sync::Notify> {
        self.notifier.weak()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field(
                "passphrase",
                &self.passphrase.as_ref().map(Input::to_string),
            )
            .field("poll", &self.poll)
            .field("notification", &self.notification)
            .finish_non_exhaustive()
    }
}

/// Runs blocking work on a thread of its own: a file system that hangs must not block a worker.
pub(super) async fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(SourceError::unavailable)
}
