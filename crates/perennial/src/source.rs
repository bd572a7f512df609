use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use sha2::{Digest, Sha256};

use crate::error::SourceError;
use crate::material::CertMaterial;
use crate::snapshot::Snapshot;
use crate::sources::{Or, Saved};

/// Where certificates come from: the one trait to implement for a source of your own.
///
/// # Example
/// ```
/// use perennial::{Ask, CertMaterial, CertSource, SourceError};
///
/// struct FromMyStore;
///
/// impl CertSource for FromMyStore {
///     async fn fetch(&self, _ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
///         let (chain, key, roots) = read_my_store().await.map_err(SourceError::unavailable)?;
///         Ok(CertMaterial::from_pem(chain, key, roots)?)
///     }
/// }
/// # async fn read_my_store() -> Result<(String, String, String), std::io::Error> {
/// #     let read = std::fs::read_to_string;
/// #     Ok((read("tls.crt")?, read("tls.key")?, read("ca.crt")?))
/// # }
/// ```
pub trait CertSource: Send + Sync + 'static {
    /// Asks once for a certificate.
    ///
    /// Called by the renewer alone, never concurrently, and always under its timeout. Do not
    /// retry inside: the renewer owns the backoff.
    ///
    /// # Errors
    /// See [`SourceError`]: its kind decides how soon the renewer asks again.
    ///
    /// # Cancel safety
    /// The future is dropped at the timeout and at shutdown.
    fn fetch(&self, ask: Ask<'_>)
    -> impl Future<Output = Result<CertMaterial, SourceError>> + Send;

    /// Ready when a fetch would return other than the last one did.
    ///
    /// A level, not an edge: it stays ready until the next fetch. The default is never ready.
    ///
    /// # Cancel safety
    /// Dropped and called anew at will; must lose nothing by it.
    fn changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// What is asked for, so that a saved certificate is reused only if it still fits.
    fn request(&self) -> Option<Fingerprint> {
        None
    }

    /// Asks `other` where this source is not configured.
    ///
    /// Goes on only on [`NotConfigured`](crate::SourceErrorKind::NotConfigured): a source that is
    /// set up and fails is not passed over, since the next one may name somebody else.
    ///
    /// # Example
    /// ```
    /// use perennial::{CertSource, EnvSource, FileSource};
    ///
    /// let source = EnvSource::new("TLS_CHAIN", "TLS_KEY", "TLS_ROOTS")
    ///     .or(FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt"));
    /// ```
    fn or<S: CertSource>(self, other: S) -> Or<Self, S>
    where
        Self: Sized,
    {
        Or::new(self, other)
    }

    /// Keeps what was fetched last in this file, for the next start: a restart issues nothing.
    ///
    /// See [`Saved`] for when it is used again. The private key is then on a disk, which is why
    /// nothing is saved unless this is asked for.
    fn saved_at(self, path: impl Into<PathBuf>) -> Saved<Self>
    where
        Self: Sized,
    {
        Saved::new(self, path.into())
    }

    /// The same source without its type, for programs that choose one as they start.
    fn boxed(self) -> BoxSource
    where
        Self: Sized,
    {
        BoxSource(Box::new(self))
    }
}

/// A source of any kind; made by [`CertSource::boxed`].
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
    async fn fetch(&self, ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        self.0.fetch(ask).await
    }

    async fn changed(&self) {
        self.0.changed().await;
    }

    fn request(&self) -> Option<Fingerprint> {
        self.0.request()
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
pub struct Ask<'a> {
    /// Why the renewer asks now.
    pub why: Why,
    /// The certificate in use, if there is one; it may have expired.
    pub current: Option<&'a Snapshot>,
}

impl<'a> Ask<'a> {
    /// For sources that ask other sources, and for tests; the renewer makes its own.
    pub fn new(why: Why, current: Option<&'a Snapshot>) -> Self {
        Self { why, current }
    }
}

/// Why a certificate is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// There is none yet.
    Start,
    /// The renewal point has come, or a retry after a failure.
    Due,
    /// The source itself said that it has changed.
    Changed,
    /// Somebody called [`LiveCert::renew_now`](crate::LiveCert::renew_now).
    Asked,
    /// A server refused the one in use: [`LiveCert::report_rejected`](crate::LiveCert::report_rejected).
    Rejected,
}

/// A SHA-256 over everything that is asked for: names, role, key type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
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

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Fingerprint({:02x}{:02x}{:02x}{:02x}…)",
            self.0[0], self.0[1], self.0[2], self.0[3]
        )
    }
}

/// SHA-256 over length-prefixed parts.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// `CertSource` with boxed futures, so that nothing else is generic over the source.
pub(crate) trait DynSource: Send + Sync {
    fn fetch<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<CertMaterial, SourceError>>;
    fn changed(&self) -> BoxFuture<'_, ()>;
    fn request(&self) -> Option<Fingerprint>;
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<S: CertSource> DynSource for S {
    fn fetch<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<CertMaterial, SourceError>> {
        Box::pin(CertSource::fetch(self, ask))
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(CertSource::changed(self))
    }

    fn request(&self) -> Option<Fingerprint> {
        CertSource::request(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_tells_part_borders_apart() {
        let ab_c = Fingerprint::of([b"ab".as_slice(), b"c"]);
        let a_bc = Fingerprint::of([b"a".as_slice(), b"bc"]);
        assert_ne!(ab_c, a_bc);
        assert_eq!(ab_c, Fingerprint::of([b"ab".as_slice(), b"c"]));
    }
}
