use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

use super::input::{Input, Inputs, Place};
use super::reader::{Reader, reading_setters};
use super::shown::may_be_secret;
use super::{CacheKey, CertSource, FetchContext, Fetched};
use crate::error::SourceError;
use crate::material::formats;

/// Reads chain, key and roots from environment variables.
///
/// Each variable contains either the content itself, in PEM or in PEM or DER as base64, or the path
/// of a file with it. A value with a BEGIN line is PEM; its line ends may be written as `\n`, have
/// become spaces or be lost, as tools without multi-line values do. Files are watched as
/// [`FileSource`](crate::FileSource) watches them. Errors name the variable and never show its
/// value. What this source reads from variables is wiped from memory after use.
///
/// Every other process of the same user can read the environment: prefer a path for the key.
///
/// # Errors
/// - None of the variables is set: [`NotConfigured`](crate::SourceErrorKind::NotConfigured), so
///   that [`or`](CertSource::or) tries the next source.
/// - Only some of them are set, or a value is neither content nor a path:
///   [`Invalid`](crate::SourceErrorKind::Invalid).
///
/// An empty variable counts as not set.
///
/// # Example
/// ```
/// use perennial::{CertSource, EnvSource, FileSource};
///
/// let source = EnvSource::new("APP_TLS_CHAIN", "APP_TLS_KEY", "APP_TLS_ROOTS")
///     .or(FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt"));
/// ```
pub struct EnvSource {
    chain: OsString,
    /// `None`: the key is in the chain's variable.
    key: Option<OsString>,
    /// `None`: the source delivers no roots.
    roots: Option<OsString>,
    reader: Reader,
    /// Looks up a variable in the process; in a test, in its own table.
    lookup: Box<Lookup>,
}

type Lookup = dyn Fn(&OsStr) -> Option<OsString> + Send + Sync;

impl EnvSource {
    /// Names the variables of the leaf-first chain, the private key and the trust roots.
    ///
    /// They are looked up at each fetch.
    pub fn new(
        chain: impl Into<OsString>,
        key: impl Into<OsString>,
        roots: impl Into<OsString>,
    ) -> Self {
        Self::of(chain.into(), Some(key.into()), Some(roots.into()))
    }

    /// Names one variable for both chain and key, and the variable of the trust roots.
    pub fn combined(pair: impl Into<OsString>, roots: impl Into<OsString>) -> Self {
        Self::of(pair.into(), None, Some(roots.into()))
    }

    /// Names the variables of chain and key alone, for roots that come from elsewhere.
    ///
    /// A client verifies servers by the roots of its [`TlsSettings`](crate::TlsSettings) then. The
    /// same name twice is one variable for both.
    pub fn without_roots(chain: impl Into<OsString>, key: impl Into<OsString>) -> Self {
        let (chain, key) = (chain.into(), key.into());
        let key = (key != chain).then_some(key);
        Self::of(chain, key, None)
    }

    fn of(chain: OsString, key: Option<OsString>, roots: Option<OsString>) -> Self {
        Self {
            chain,
            key,
            roots,
            reader: Reader::default(),
            lookup: Box::new(|name| std::env::var_os(name)),
        }
    }

    reading_setters!();

    fn names(&self) -> impl Iterator<Item = &OsString> {
        [&self.chain]
            .into_iter()
            .chain(&self.key)
            .chain(&self.roots)
    }

    /// Looks up all variables.
    fn inputs(&self) -> Result<Inputs, SourceError> {
        let values: Vec<_> = self.names().map(|name| self.value(name)).collect();
        let names = || self.names().zip(&values);
        let listed = |is_set: bool| {
            let listed = names().filter(|(_, value)| value.is_some() == is_set);
            let listed: Vec<_> = listed.map(|(name, _)| name.to_string_lossy()).collect();
            listed.join(", ")
        };
        if values.iter().all(Option::is_none) {
            let problem = format!("none of these variables is set: {}", listed(false));
            return Err(SourceError::not_configured(problem));
        }
        if values.iter().any(Option::is_none) {
            let (set, unset) = (listed(true), listed(false));
            let problem = format!("not set: {unset}; set: {set}; expected all of them");
            return Err(SourceError::invalid(problem));
        }
        let inputs = names().filter_map(|(name, value)| Some(input(name, value.as_ref()?)));
        let mut inputs = inputs.collect::<Result<Vec<_>, _>>()?.into_iter();
        let chain = inputs.next();
        let chain = chain.ok_or_else(|| SourceError::not_configured("no variable is named"))?;
        let key = self.key.as_ref().and_then(|_| inputs.next());
        Ok(Inputs::new(chain, key, inputs.collect()))
    }

    /// The value of a variable, if it is set and not empty.
    fn value(&self, name: &OsStr) -> Option<Value> {
        let value = (self.lookup)(name).map(Value);
        value.filter(|value| !value.0.is_empty())
    }
}

/// The value of a variable, which is wiped when dropped.
struct Value(OsString);

impl Drop for Value {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).into_encoded_bytes().zeroize();
    }
}

impl CertSource for EnvSource {
    async fn fetch(&self, _: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.reader.fetch(&self.inputs()?).await.map(Into::into)
    }

    async fn changed(&self) {
        match self.inputs() {
            Ok(inputs) => self.reader.changed(&inputs).await,
            // The next fetch reports it; the process's environment does not change.
            Err(_) => std::future::pending().await,
        }
    }

    /// Over the variables' names.
    fn cache_key(&self) -> Option<CacheKey> {
        Some(CacheKey::of(
            self.names().map(|name| name.as_encoded_bytes()),
        ))
    }
}

impl fmt::Debug for EnvSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvSource")
            .field("variables", &self.names().collect::<Vec<_>>())
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

/// The value itself if it is content, else the file at that path.
fn input(variable: &OsStr, value: &Value) -> Result<Input, SourceError> {
    let bytes = value.0.as_encoded_bytes();
    // A path is never DER by accident: the length inside must match.
    if formats::is_content(bytes) {
        let name = format!("the variable {}", variable.display());
        let content = Arc::new(Zeroizing::new(bytes.to_vec()));
        return Ok(Input::new(name, Place::Bytes(content)));
    }
    if may_be_secret(bytes) {
        let variable = variable.display();
        let problem = format!(
            "the variable {variable} is neither PEM nor base64 of PEM or DER, nor a path: is its \
             value cut off?"
        );
        return Err(SourceError::invalid(problem));
    }
    let name = format!("the file that the variable {} names", variable.display());
    Ok(Input::new(name, Place::File(PathBuf::from(&value.0))))
}

#[cfg(test)]
mod tests;
