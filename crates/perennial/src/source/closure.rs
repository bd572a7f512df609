use std::fmt;

use crate::error::SourceError;
use crate::material::CertMaterial;
use crate::source::{CacheKey, CertSource, FetchContext, Fetched};

/// Makes a source of an async closure that is called for each fetch.
///
/// # Example
/// ```
/// use perennial::{CertMaterial, SourceError, source_fn};
///
/// let source = source_fn(async || {
///     let (chain, key, roots) = ask_my_store().await.map_err(SourceError::unavailable)?;
///     Ok(CertMaterial::from_pem(chain, key, roots)?)
/// });
/// # async fn ask_my_store() -> Result<(String, String, String), std::io::Error> {
/// #     let read = std::fs::read_to_string;
/// #     Ok((read("tls.crt")?, read("tls.key")?, read("ca.crt")?))
/// # }
/// # let _: &dyn std::fmt::Debug = &source;
/// ```
pub fn source_fn<F, Fut, T>(fetch: F) -> SourceFn<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, SourceError>> + Send,
    T: Into<Fetched>,
{
    SourceFn {
        fetch,
        request: None,
    }
}

/// A source that is a closure; made by [`source_fn`].
pub struct SourceFn<F> {
    fetch: F,
    request: Option<CacheKey>,
}

impl<F> SourceFn<F> {
    /// Says what the closure asks for, so that [`saved_at`](CertSource::saved_at) can tell
    /// whether a saved certificate still fits.
    #[must_use]
    pub fn requesting(mut self, request: CacheKey) -> Self {
        self.request = Some(request);
        self
    }
}

impl<F, Fut> CertSource for SourceFn<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<CertMaterial, SourceError>> + Send,
{
    async fn fetch(&self, _context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        (self.fetch)().await.map(Into::into)
    }

    fn cache_key(&self) -> Option<CacheKey> {
        self.request
    }
}

impl<F> fmt::Debug for SourceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceFn").finish_non_exhaustive()
    }
}
