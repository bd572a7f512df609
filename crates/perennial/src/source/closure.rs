use super::{CertSource, FetchContext, Fetched};
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
    SourceFn(fetch)
}

struct SourceFn<F>(F);

impl<F, Fut, T> CertSource for SourceFn<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, SourceError>> + Send,
    T: Into<Fetched>,
{
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Fetched, SourceError> {
        (self.0)().await.map(Into::into)
    }
}
