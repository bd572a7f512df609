use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::input::Input;
use super::inputs::Inputs;
#[cfg(feature = "encrypted-keys")]
use super::passphrase::Passphrase;
use super::reader::Reader;
use crate::error::SourceError;
use crate::source::{CacheKey, CertSource, FetchContext, Fetched};

/// Reads chain, key and roots from files, and notices when they change.
///
/// Each file may be PEM, DER, or DER in base64; the key PKCS#1, SEC1 or PKCS#8. A change is any
/// change of what the files hold: of the chain, the key or the roots alone, through whatever
/// links; the same content written again is none. A pair that does not match, or is half
/// written, is refused while the last good certificate stays in use, and read again as soon as
/// the files change again. Files larger than [`LARGEST_FILE`](crate::LARGEST_FILE), pipes and
/// devices are not read.
///
/// # Defaults
/// The system is asked to tell of changes in the files' folders (feature `watch`), and the files
/// are read every [`POLL_INTERVAL`](crate::POLL_INTERVAL) in any case: file systems of the
/// network and exhausted watches do not tell.
///
/// # Example
/// ```no_run
/// use perennial::{FileSource, LiveCert};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let source = FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt");
/// let live = LiveCert::start(source).await?;
/// # Ok(()) }
/// ```
pub struct FileSource {
    inputs: Inputs,
    reader: Reader,
}

impl FileSource {
    /// Names the files: leaf-first chain, private key, trust roots. Reads nothing yet.
    pub fn new(
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        roots: impl Into<PathBuf>,
    ) -> Self {
        let (chain, key) = (chain.into(), key.into());
        let key = (key != chain).then_some(key);
        Self::of(chain, key, vec![roots.into()])
    }

    /// Names one file that holds both chain and key, and that of the trust roots.
    ///
    /// The pair's file is PEM; the order of key and certificates in it does not matter.
    pub fn combined(pair: impl Into<PathBuf>, roots: impl Into<PathBuf>) -> Self {
        Self::of(pair.into(), None, vec![roots.into()])
    }

    pub(super) fn of(chain: PathBuf, key: Option<PathBuf>, roots: Vec<PathBuf>) -> Self {
        let roots = roots.into_iter().map(Input::file).collect();
        Self {
            inputs: Inputs::new(Input::file(chain), key.map(Input::file), roots),
            reader: Reader::default(),
        }
    }

    /// Trusts the roots of one more file too.
    #[must_use]
    pub fn more_roots(mut self, roots: impl Into<PathBuf>) -> Self {
        self.inputs.roots.push(Input::file(roots.into()));
        self
    }

    /// Says what opens the key, if it is encrypted PKCS#8.
    #[cfg(feature = "encrypted-keys")]
    #[must_use]
    pub fn passphrase(mut self, passphrase: Passphrase) -> Self {
        self.inputs.passphrase = Some(passphrase.into_input());
        self
    }

    /// How often the files are read to find changes; the bound in which any is noticed.
    ///
    /// # Errors
    /// Zero is refused at the first fetch.
    #[must_use]
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.reader.poll_every(interval);
        self
    }

    /// Does not ask the system to tell of changes: no watch, no thread.
    #[must_use]
    pub fn poll_only(mut self) -> Self {
        self.reader.poll_only();
        self
    }
}

impl CertSource for FileSource {
    async fn fetch(&self, _context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.reader
            .fetch(self.inputs.clone())
            .await
            .map(Fetched::from)
    }

    async fn changed(&self) {
        self.reader.changed(self.inputs.clone()).await;
    }

    /// The files' names.
    fn cache_key(&self) -> Option<CacheKey> {
        Some(self.inputs.fingerprint())
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource")
            .field("inputs", &self.inputs)
            .field("reader", &self.reader)
            .finish()
    }
}

#[cfg(test)]
mod broken_tests;
#[cfg(test)]
mod formats_tests;
#[cfg(test)]
mod tests;
