use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::input::{Input, Place};
use super::inputs::Inputs;
#[cfg(feature = "encrypted-keys")]
use super::passphrase::Passphrase;
use super::reader::Reader;
use crate::error::SourceError;
use crate::material::formats;
use crate::source::{CacheKey, CertSource, FetchContext, Fetched};

/// Reads chain, key and roots from environment variables.
///
/// Each variable holds either the thing itself, in PEM or in DER as base64, or the path of a file
/// that does. A value with a BEGIN line is PEM; line ends in it may be written as `\n`, as tools
/// do that know no lines. Files are watched as [`FileSource`](crate::FileSource) watches them.
/// Errors name the variable, and never show its value.
///
/// Any other process of the same user can read a process's environment: prefer paths for keys.
///
/// # Errors
/// Fetching without any of the variables set is
/// [`NotConfigured`](crate::SourceErrorKind::NotConfigured), so that
/// [`or`](CertSource::or) goes on; with some set and some not it is
/// [`Invalid`](crate::SourceErrorKind::Invalid). An empty variable counts as not set.
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
    #[cfg(feature = "encrypted-keys")]
    passphrase: Option<Input>,
    reader: Reader,
    variables: Variables,
}

impl EnvSource {
    /// Names the variables: of the leaf-first chain, the private key, the trust roots.
    ///
    /// They are looked up at each fetch.
    pub fn new(
        chain: impl Into<OsString>,
        key: impl Into<OsString>,
        roots: impl Into<OsString>,
    ) -> Self {
        Self::of(chain.into(), Some(key.into()), roots.into())
    }

    /// Names one variable for both chain and key, and that of the trust roots.
    pub fn combined(pair: impl Into<OsString>, roots: impl Into<OsString>) -> Self {
        Self::of(pair.into(), None, roots.into())
    }

    pub(super) fn of(chain: OsString, key: Option<OsString>, roots: OsString) -> Self {
        Self {
            chain,
            key,
            roots,
            #[cfg(feature = "encrypted-keys")]
            passphrase: None,
            reader: Reader::default(),
            variables: Variables::default(),
        }
    }

    /// Says what opens the key, if it is encrypted PKCS#8.
    #[cfg(feature = "encrypted-keys")]
    #[must_use]
    pub fn passphrase(mut self, passphrase: Passphrase) -> Self {
        self.passphrase = Some(passphrase.into_input());
        self
    }

    /// As [`FileSource::poll_every`](crate::FileSource::poll_every), for variables with paths.
    ///
    /// # Errors
    /// Zero is refused at the first fetch.
    #[must_use]
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.reader.poll_every(interval);
        self
    }

    /// As [`FileSource::poll_only`](crate::FileSource::poll_only), for variables with paths.
    #[must_use]
    pub fn poll_only(mut self) -> Self {
        self.reader.poll_only();
        self
    }

    fn names(&self) -> impl Iterator<Item = &OsString> {
        [&self.chain]
            .into_iter()
            .chain(&self.key)
            .chain([&self.roots])
    }

    /// Looks all variables up.
    fn inputs(&self) -> Result<Inputs, SourceError> {
        let (set, unset): (Vec<_>, Vec<_>) = self
            .names()
            .partition(|name| self.variables.get(name).is_some());
        if set.is_empty() {
            return Err(SourceError::not_configured(NoneSet(listed(&unset))));
        }
        if !unset.is_empty() {
            let (set, unset) = (listed(&set), listed(&unset));
            return Err(SourceError::invalid(SomeUnset { set, unset }));
        }
        let input = |name: &OsString| {
            let value = self.variables.get(name).unwrap_or_default();
            input(name.clone(), value)
        };
        let roots = vec![input(&self.roots)];
        let inputs = Inputs::new(input(&self.chain), self.key.as_ref().map(input), roots);
        #[cfg(feature = "encrypted-keys")]
        let inputs = Inputs {
            passphrase: self.passphrase.clone(),
            ..inputs
        };
        Ok(inputs)
    }
}

impl CertSource for EnvSource {
    async fn fetch(&self, _context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.reader.fetch(self.inputs()?).await.map(Fetched::from)
    }

    async fn changed(&self) {
        match self.inputs() {
            Ok(inputs) => self.reader.changed(inputs).await,
            // A process's environment does not change by itself.
            Err(_fetching_tells) => std::future::pending().await,
        }
    }

    /// The variables' names.
    fn cache_key(&self) -> Option<CacheKey> {
        Some(CacheKey::of(
            self.names().map(|name| name.as_encoded_bytes()),
        ))
    }
}

impl fmt::Debug for EnvSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvSource")
            .field("chain", &self.chain)
            .field("key", &self.key)
            .field("roots", &self.roots)
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

/// Content where the value is content, else a path.
fn input(variable: OsString, value: OsString) -> Input {
    let place = Place::Variable(variable.clone());
    let bytes = value.as_encoded_bytes();
    if bytes.windows(5).any(|window| window == b"-----") {
        return Input::bytes(place, with_lines(bytes));
    }
    // No path is DER by accident: the length inside must fit.
    if formats::is_base64_der(bytes) {
        return Input::bytes(place, Zeroizing::new(bytes.to_vec()));
    }
    Input::file_of_variable(variable, PathBuf::from(value))
}

/// Makes line ends of `\n` and `\r\n` that are written out.
fn with_lines(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut lines = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return lines,
            [b'\\', b'r', after @ ..] => after,
            [b'\\', b'n', after @ ..] => {
                lines.push(b'\n');
                after
            }
            [byte, after @ ..] => {
                lines.push(*byte);
                after
            }
        };
    }
}

fn listed(names: &[&OsString]) -> String {
    let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    names.join(", ")
}

#[derive(Debug, thiserror::Error)]
#[error("none of these variables is set: {0}")]
struct NoneSet(String);

#[derive(Debug, thiserror::Error)]
#[error("not set: {unset}; set: {set}; it takes all of them")]
struct SomeUnset {
    set: String,
    unset: String,
}

/// Where variables are looked up: in the process, or in a test's own table.
#[derive(Default)]
struct Variables {
    #[cfg(test)]
    given: Option<std::collections::HashMap<OsString, OsString>>,
}

impl Variables {
    /// The value of a variable that is set and not empty.
    fn get(&self, name: &OsStr) -> Option<OsString> {
        #[cfg(test)]
        if let Some(given) = &self.given {
            return given.get(name).cloned().filter(|value| !value.is_empty());
        }
        std::env::var_os(name).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests;
