use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::input::{Input, Inputs, Place};
use super::reader::{Reader, reading_setters};
use super::{CacheKey, CertSource, FetchContext, Fetched};
use crate::error::SourceError;
use crate::material::formats;

/// Reads chain, key and roots from environment variables.
///
/// Each variable contains either the content itself, in PEM or in DER as base64, or the path of a
/// file with it. A value with a BEGIN line is PEM; its line ends may be written as `\n`, as tools
/// without multi-line values do. Files are watched as [`FileSource`](crate::FileSource) watches
/// them. Errors name the variable and never show its value.
///
/// Every other process of the same user can read the environment: prefer a path for the key.
///
/// # Errors
/// - None of the variables is set: [`NotConfigured`](crate::SourceErrorKind::NotConfigured), so
///   that [`or`](CertSource::or) tries the next source.
/// - Only some of them are set: [`Invalid`](crate::SourceErrorKind::Invalid).
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
    roots: OsString,
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
        Self::of(chain.into(), Some(key.into()), roots.into())
    }

    /// Names one variable for both chain and key, and the variable of the trust roots.
    pub fn combined(pair: impl Into<OsString>, roots: impl Into<OsString>) -> Self {
        Self::of(pair.into(), None, roots.into())
    }

    fn of(chain: OsString, key: Option<OsString>, roots: OsString) -> Self {
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
            .chain([&self.roots])
    }

    /// The value of a variable, if it is set and not empty.
    fn value(&self, name: &OsStr) -> Option<OsString> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// Looks up all variables.
    fn inputs(&self) -> Result<Inputs, SourceError> {
        let (set, unset): (Vec<_>, Vec<_>) =
            self.names().partition(|name| self.value(name).is_some());
        if set.is_empty() {
            let problem = format!("none of these variables is set: {}", listed(&unset));
            return Err(SourceError::not_configured(problem));
        }
        if !unset.is_empty() {
            let (set, unset) = (listed(&set), listed(&unset));
            let problem = format!("not set: {unset}; set: {set}; expected all of them");
            return Err(SourceError::invalid(problem));
        }
        let input = |name: &OsString| input(name, self.value(name).unwrap_or_default());
        let roots = vec![input(&self.roots)];
        Ok(Inputs::new(
            input(&self.chain),
            self.key.as_ref().map(input),
            roots,
        ))
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
fn input(variable: &OsStr, value: OsString) -> Input {
    let bytes = value.as_encoded_bytes();
    let content = if bytes.windows(5).any(|window| window == b"-----") {
        with_lines(bytes)
    } else if formats::is_base64_der(bytes) {
        // A path is never DER by accident: the length inside must match.
        Zeroizing::new(bytes.to_vec())
    } else {
        let name = format!("the file that the variable {} names", variable.display());
        return Input::new(name, Place::File(value.into()));
    };
    let name = format!("the variable {}", variable.display());
    Input::new(name, Place::Bytes(Arc::new(content)))
}

/// Replaces the characters `\n` and `\r\n` with line ends.
fn with_lines(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut lines = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let [first, ..] = rest {
        let (byte, length) = match rest {
            [b'\\', b'r', ..] => (None, 2),
            [b'\\', b'n', ..] => (Some(b'\n'), 2),
            _ => (Some(*first), 1),
        };
        lines.extend(byte);
        rest = &rest[length..];
    }
    lines
}

fn listed(names: &[&OsString]) -> String {
    let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
