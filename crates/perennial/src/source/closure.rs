use super::{CacheKey, CertSource, FetchContext, Fetched};
use crate::error::SourceError;

/// Makes a source of an async closure that is called for each fetch.
///
/// # Example
/// ```
/// use perennial::{CertMaterial, LiveCert, SourceError, source_fn};
///
/// let source = source_fn(async || {
///     let (chain, key, roots) = read_my_store().await.map_err(SourceError::unavailable)?;
///     Ok(CertMaterial::from_pem(chain, key, roots)?)
/// });
/// # async fn read_my_store() -> Result<(String, String, String), std::io::Error> {
/// #     let read = std::fs::read_to_string;
/// #     Ok((read("tls.crt")?, read("tls.key")?, read("ca.crt")?))
/// # }
/// # let _ = LiveCert::start(source);
/// ```
pub fn source_fn<F, Fut, T>(fetch: F) -> impl CertSource
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, SourceError>> + Send,
    T: Into<Fetched>,
{
    SourceFn(fetch, None)
}

/// As [`source_fn`], with a cache key, so that [`saved_at`](CertSource::saved_at) saves.
pub fn keyed_source_fn<F, Fut, T>(key: CacheKey, fetch: F) -> impl CertSource
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, SourceError>> + Send,
    T: Into<Fetched>,
{
    SourceFn(fetch, Some(key))
}

struct SourceFn<F>(F, Option<CacheKey>);

impl<F, Fut, T> CertSource for SourceFn<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, SourceError>> + Send,
    T: Into<Fetched>,
{
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Fetched, SourceError> {
        (self.0)().await.map(Into::into)
    }

    fn cache_key(&self) -> Option<CacheKey> {
        self.1
    }
}
