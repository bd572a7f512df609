use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::input::{Input, Inputs};
use super::reader::{Reader, reading_setters};
use super::{CacheKey, CertSource, FetchContext, Fetched};
use crate::error::SourceError;

/// Reads chain, key and roots from files, and notices when they change.
///
/// Each file may be PEM or DER, or either as base64; the key PKCS#1, SEC1 or PKCS#8; chain and key
/// one PKCS#12 file (feature `pkcs12`). Any change of the
/// content is noticed, of one file alone or through any links; the same content written again is
/// not a change. A pair that does not match, or is half written, is refused while the last good
/// certificate stays in use, and read again when the files change again. Files larger than 4 MiB,
/// pipes and devices are not read.
///
/// # Defaults
/// The source asks the system to notify of changes in the files' folders (feature `watch`). It also
/// reads the files every 10 s, because network file systems and exhausted watches do not notify.
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
        Self::of(chain, key, Some(roots.into()))
    }

    /// Names one file with both chain and key, and the file of the trust roots.
    ///
    /// The pair's file is PEM, with key and certificates in any order, or PKCS#12.
    pub fn combined(pair: impl Into<PathBuf>, roots: impl Into<PathBuf>) -> Self {
        Self::of(pair.into(), None, Some(roots.into()))
    }

    /// Names the files of chain and key alone, for roots that come from elsewhere.
    ///
    /// A client verifies servers by the roots of its [`TlsSettings`](crate::TlsSettings) then; a
    /// server that asks for no client certificates needs none. The same path twice is one file with
    /// both.
    pub fn without_roots(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (chain, key) = (chain.into(), key.into());
        let key = (key != chain).then_some(key);
        Self::of(chain, key, None)
    }

    fn of(chain: PathBuf, key: Option<PathBuf>, roots: Option<PathBuf>) -> Self {
        let roots = roots.into_iter().map(Input::file).collect();
        Self {
            inputs: Inputs::new(Input::file(chain), key.map(Input::file), roots),
            reader: Reader::default(),
        }
    }

    /// Trusts the roots of one more file.
    #[must_use]
    pub fn more_roots(mut self, roots: impl Into<PathBuf>) -> Self {
        self.inputs.roots.push(Input::file(roots.into()));
        self
    }

    reading_setters!();
}

impl CertSource for FileSource {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.reader.fetch(&self.inputs).await.map(Into::into)
    }

    async fn changed(&self) {
        self.reader.changed(&self.inputs).await;
    }

    /// Over the files' names.
    fn cache_key(&self) -> Option<CacheKey> {
        Some(self.reader.cache_key(&self.inputs))
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
