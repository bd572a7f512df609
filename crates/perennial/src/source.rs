use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::digest::digest;
use crate::error::SourceError;
use crate::material::CertMaterial;
use crate::snapshot::Snapshot;

mod closure;
pub use closure::{keyed_source_fn, source_fn};
mod env;
pub use env::EnvSource;
mod file;
pub use file::FileSource;
mod input;
mod or;
use or::Or;
mod reader;
mod saved;
use saved::Saved;
#[cfg(any(test, feature = "test-util"))]
pub(crate) use saved::SavedCert;
mod shown;
#[cfg(test)]
mod testing;
mod trusted;
#[cfg(feature = "watch")]
mod watch;

/// Where certificates come from: the one trait to implement for a source of your own.
///
/// # Example
/// ```
/// use perennial::{CertMaterial, CertSource, FetchContext, Fetched, SourceError};
///
/// struct FromMyStore;
///
/// impl CertSource for FromMyStore {
///     async fn fetch(&self, _context: FetchContext<'_>) -> Result<Fetched, SourceError> {
///         let (chain, key, roots) = read_my_store().await.map_err(SourceError::unavailable)?;
///         Ok(CertMaterial::from_pem(chain, key, roots)?.into())
///     }
/// }
/// # async fn read_my_store() -> Result<(String, String, String), std::io::Error> {
/// #     let read = std::fs::read_to_string;
/// #     Ok((read("tls.crt")?, read("tls.key")?, read("ca.crt")?))
/// # }
/// ```
pub trait CertSource: Send + Sync + 'static {
    /// Fetches a certificate once.
    ///
    /// The renewer alone calls this, never concurrently and always under its timeout. Do not
    /// retry inside: the renewer owns the back-off.
    ///
    /// # Errors
    /// See [`SourceError`]: its kind decides how soon the renewer tries again.
    ///
    /// # Cancel safety
    /// The renewer drops the future at the timeout and at shutdown.
    fn fetch(
        &self,
        context: FetchContext<'_>,
    ) -> impl Future<Output = Result<Fetched, SourceError>> + Send;

    /// Resolves when the source has something newer than the last fetch returned.
    ///
    /// A level, not an edge: it stays ready until the next fetch. The default never resolves.
    ///
    /// # Cancel safety
    /// The renewer drops it and calls it again at any time; no change may be lost by that.
    fn changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Called when a fetched certificate has passed every check and readers can see it.
    ///
    /// For work that belongs to an *accepted* certificate, such as saving it. Also called for a
    /// change of roots alone and for a certificate that was loaded from disk, so it must be
    /// idempotent. Match what was delivered by [`Snapshot::leaf_sha256`]. Must not block: do slow
    /// work on a task of the source's own. The default does nothing.
    fn published(&self, snapshot: &Arc<Snapshot>) {
        let _ = snapshot;
    }

    /// Identifies what this source requests, so that a saved certificate is reused only if it
    /// still fits. Without a key (the default) nothing is saved.
    fn cache_key(&self) -> Option<CacheKey> {
        None
    }

    /// Uses `other` where this source is not configured.
    ///
    /// Falls through only on [`NotConfigured`](crate::SourceErrorKind::NotConfigured): a source
    /// that is configured and fails is not skipped, since the next one may hold another identity.
    ///
    /// # Example
    /// ```
    /// use perennial::{CertSource, EnvSource, FileSource};
    ///
    /// let source = EnvSource::new("TLS_CHAIN", "TLS_KEY", "TLS_ROOTS")
    ///     .or(FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt"));
    /// ```
    fn or<S: CertSource>(self, other: S) -> impl CertSource
    where
        Self: Sized,
    {
        Or::new(self, other)
    }

    /// Keeps the certificate in use in this file for the next start: a restart issues nothing.
    ///
    /// At a start the saved certificate is used instead of a fetch if it has the source's
    /// [`cache_key`](Self::cache_key), passes all checks, and is before its renewal point, which a
    /// restart does not move. One that is past that point and has not expired is used only if the
    /// source is unavailable. Nothing is saved for a source without a cache key.
    ///
    /// The file contains the private key, so nothing is saved unless this is called. It is written
    /// as a whole, with mode 600. A file that another user owns (other than root), that all users
    /// may write, that has a second name or is a link, is not used, nor one in a folder in which
    /// all users may replace files: its folder should belong to this service alone. A file that
    /// others may read is used, with a warning, and gets the mode 600 if that is possible. A key
    /// that stays in its device is not saved.
    ///
    /// Processes that start at once on one file issue one certificate: the others wait up to 3 s
    /// for the first one to save it. The lock for that is an empty file next to it,
    /// `.NAME.lock`.
    ///
    /// A disk that fails or hangs delays no certificate: saving happens after publishing, on a
    /// thread of its own, and a failure is a warning. Dropping the source waits up to 2 s for a
    /// write under way; the read at start takes 2 s at most.
    ///
    /// A path that may be a key, given by mistake, is
    /// [`Invalid`](crate::SourceErrorKind::Invalid) at the first fetch, and no file is named after
    /// it: one that looks like base64 or PEM. Begin a relative path with `./`.
    fn saved_at(self, path: impl Into<PathBuf>) -> impl CertSource
    where
        Self: Sized,
    {
        Saved::new(self, path.into())
    }

    /// Erases the type, for programs that choose a source as they start.
    fn boxed(self) -> BoxSource
    where
        Self: Sized,
    {
        BoxSource(Box::new(self))
    }
}

/// A source of any type; made by [`CertSource::boxed`].
///
/// # Example
/// ```
/// use perennial::{BoxSource, CertSource, EnvSource, FileSource};
///
/// fn chosen(from_env: bool) -> BoxSource {
///     if from_env {
///         EnvSource::new("TLS_CHAIN", "TLS_KEY", "TLS_ROOTS").boxed()
///     } else {
///         FileSource::combined("/etc/tls/pair.pem", "/etc/tls/ca.crt").boxed()
///     }
/// }
/// ```
pub struct BoxSource(Box<dyn DynSource>);

impl CertSource for BoxSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.0.fetch(context).await
    }

    async fn changed(&self) {
        self.0.changed().await;
    }

    fn published(&self, snapshot: &Arc<Snapshot>) {
        self.0.published(snapshot);
    }

    fn cache_key(&self) -> Option<CacheKey> {
        self.0.cache_key()
    }

    fn boxed(self) -> BoxSource {
        self
    }
}

impl fmt::Debug for BoxSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxSource").finish_non_exhaustive()
    }
}

/// The occasion of a fetch.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FetchContext<'a> {
    /// Why the renewer fetches now.
    pub reason: FetchReason,
    /// The certificate in use, if there is one; it may have expired.
    pub current: Option<&'a Snapshot>,
}

impl<'a> FetchContext<'a> {
    /// For sources that call other sources, and for tests; the renewer makes its own.
    pub fn new(reason: FetchReason, current: Option<&'a Snapshot>) -> Self {
        Self { reason, current }
    }
}

/// Why the renewer fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FetchReason {
    /// There is no certificate yet.
    Start,
    /// The renewal point has passed, or a retry after a failure is due.
    Due,
    /// [`CertSource::changed`] resolved.
    Changed,
    /// A caller requested it by [`LiveCert::renew`](crate::LiveCert::renew).
    Requested,
    /// A server refused the certificate in use: [`Reporter::refused`](crate::Reporter::refused).
    Refused,
}

/// What one fetch delivered.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fetched {
    /// A certificate with its key and roots.
    Certificate(CertMaterial),
    /// Other roots for the certificate in use; its chain and key stay as they are.
    ///
    /// Published as a new generation, for which nothing was issued.
    Roots(Vec<CertificateDer<'static>>),
}

impl From<CertMaterial> for Fetched {
    fn from(material: CertMaterial) -> Self {
        Self::Certificate(material)
    }
}

/// A SHA-256 over everything that a source requests: names, role, key type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// Hashes the parts of a request; each part is length-prefixed, so order and borders count.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(digest(parts))
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "CacheKey({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// `CertSource` with boxed futures, so that nothing else is generic over the source.
pub(crate) trait DynSource: Send + Sync {
    fn fetch<'a>(
        &'a self,
        context: FetchContext<'a>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>>;
    fn changed(&self) -> BoxFuture<'_, ()>;
    fn published(&self, snapshot: &Arc<Snapshot>);
    fn cache_key(&self) -> Option<CacheKey>;
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<S: CertSource> DynSource for S {
    fn fetch<'a>(
        &'a self,
        context: FetchContext<'a>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(CertSource::fetch(self, context))
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(CertSource::changed(self))
    }

    fn published(&self, snapshot: &Arc<Snapshot>) {
        CertSource::published(self, snapshot);
    }

    fn cache_key(&self) -> Option<CacheKey> {
        CertSource::cache_key(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_key_depends_on_the_borders_between_parts() {
        let ab_c = CacheKey::of([b"ab".as_slice(), b"c"]);
        let a_bc = CacheKey::of([b"a".as_slice(), b"bc"]);
        assert_ne!(ab_c, a_bc);
        assert_eq!(ab_c, CacheKey::of([b"ab".as_slice(), b"c"]));
    }
}
