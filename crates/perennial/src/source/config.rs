use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::env::EnvSource;
use super::file::FileSource;
#[cfg(feature = "encrypted-keys")]
use super::passphrase::Passphrase;
use super::reader::POLL_INTERVAL;
use crate::source::{BoxSource, CertSource};

/// Which source to use, for programs whose own configuration says it.
///
/// Unknown fields are refused, so that a misspelt one is not passed over in silence. No secret
/// belongs in here; a passphrase is named by where it is.
///
/// # Example
/// ```
/// use perennial::{LiveCert, SourceConfig};
///
/// let config: SourceConfig = serde_json::from_str(
///     r#"{
///         "kind": "file",
///         "chain": "/etc/tls/tls.crt",
///         "key": "/etc/tls/tls.key",
///         "roots": ["/etc/tls/ca.crt", "/etc/tls/old-ca.crt"],
///         "poll_seconds": 30
///     }"#,
/// )?;
/// let source = config.into_source();
/// # let _live = LiveCert::start(source);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SourceConfig {
    /// A [`FileSource`].
    File(FileConfig),
    /// An [`EnvSource`].
    Env(EnvConfig),
}

/// The settings of a [`FileSource`].
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileConfig {
    /// The file of the leaf-first chain.
    pub chain: PathBuf,
    /// The file of the private key; left out where it is in the chain's.
    pub key: Option<PathBuf>,
    /// The file of the trust roots, or a list of files.
    pub roots: OneOrMore,
    /// What opens an encrypted key.
    #[cfg(feature = "encrypted-keys")]
    pub passphrase: Option<PassphraseConfig>,
    /// How often the files are looked at; [`POLL_INTERVAL`] if left out.
    pub poll_seconds: Option<NonZeroU64>,
    /// Where to keep the certificate for the next start; nowhere if left out.
    pub saved_at: Option<PathBuf>,
}

/// The settings of an [`EnvSource`].
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EnvConfig {
    /// The variable of the leaf-first chain.
    pub chain: String,
    /// The variable of the private key; left out where it is in the chain's.
    pub key: Option<String>,
    /// The variable of the trust roots.
    pub roots: String,
    /// What opens an encrypted key.
    #[cfg(feature = "encrypted-keys")]
    pub passphrase: Option<PassphraseConfig>,
    /// How often named files are looked at; [`POLL_INTERVAL`] if left out.
    pub poll_seconds: Option<NonZeroU64>,
    /// Where to keep the certificate for the next start; nowhere if left out.
    pub saved_at: Option<PathBuf>,
}

/// One path, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a path or a list of paths")]
#[non_exhaustive]
pub enum OneOrMore {
    /// A single path.
    One(PathBuf),
    /// Several.
    More(Vec<PathBuf>),
}

/// Where a passphrase is.
#[cfg(feature = "encrypted-keys")]
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PassphraseConfig {
    /// In this environment variable.
    Env(String),
    /// In this file.
    File(PathBuf),
}

impl SourceConfig {
    /// The source; reads nothing yet.
    pub fn into_source(self) -> BoxSource {
        match self {
            Self::File(config) => config.into_source(),
            Self::Env(config) => config.into_source(),
        }
    }
}

impl FileConfig {
    fn into_source(self) -> BoxSource {
        let roots = match self.roots {
            OneOrMore::One(path) => vec![path],
            OneOrMore::More(paths) => paths,
        };
        let key = self.key.filter(|key| *key != self.chain);
        let source = FileSource::of(self.chain, key, roots).poll_every(poll(self.poll_seconds));
        #[cfg(feature = "encrypted-keys")]
        let source = match self.passphrase {
            Some(passphrase) => source.passphrase(passphrase.into()),
            None => source,
        };
        saved(source, self.saved_at)
    }
}

impl EnvConfig {
    fn into_source(self) -> BoxSource {
        let key = self.key.map(Into::into);
        let source = EnvSource::of(self.chain.into(), key, self.roots.into());
        let source = source.poll_every(poll(self.poll_seconds));
        #[cfg(feature = "encrypted-keys")]
        let source = match self.passphrase {
            Some(passphrase) => source.passphrase(passphrase.into()),
            None => source,
        };
        saved(source, self.saved_at)
    }
}

fn poll(seconds: Option<NonZeroU64>) -> Duration {
    seconds.map_or(POLL_INTERVAL, |seconds| Duration::from_secs(seconds.get()))
}

fn saved(source: impl CertSource, at: Option<PathBuf>) -> BoxSource {
    match at {
        Some(path) => source.saved_at(path).boxed(),
        None => source.boxed(),
    }
}

#[cfg(feature = "encrypted-keys")]
impl From<PassphraseConfig> for Passphrase {
    fn from(config: PassphraseConfig) -> Self {
        match config {
            PassphraseConfig::Env(variable) => Self::env(variable),
            PassphraseConfig::File(path) => Self::file(path),
        }
    }
}

// By hand: whoever puts a key where its path belongs must not find it in a log.

impl fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(config) => config.fmt(f),
            Self::Env(config) => config.fmt(f),
        }
    }
}

impl fmt::Debug for FileConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileConfig")
            .field("poll_seconds", &self.poll_seconds)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EnvConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvConfig")
            .field("poll_seconds", &self.poll_seconds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Files, SOON, ask, in_time, pem, told};
    use super::*;
    use crate::FetchReason;
    use crate::testing::TestCa;

    fn parse(json: &str) -> Result<SourceConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn file_source_of_a_configuration_reads_and_saves() {
        let (chain, key, roots) = pem(&TestCa::new());
        let files = Files::of(&(chain.clone(), key.clone(), roots));
        files.write("pair.pem", chain + &key);
        let at = |name: &str| format!("{:?}", files.path(name));
        let table = [
            format!(
                r#"{{"kind":"file","chain":{},"key":{},"roots":{},"saved_at":{}}}"#,
                at("tls.crt"),
                at("tls.key"),
                at("ca.crt"),
                at("saved")
            ),
            format!(
                r#"{{"kind":"file","chain":{},"roots":[{},{}],"poll_seconds":60}}"#,
                at("pair.pem"),
                at("ca.crt"),
                at("ca.crt")
            ),
        ];
        for json in table {
            let source = parse(&json).unwrap().into_source();
            let material = source.fetch(ask(FetchReason::Start)).await.unwrap();
            assert_eq!(material.chain().len(), 2);
        }
        assert!(files.path("saved").exists());
    }

    #[tokio::test]
    async fn env_source_of_a_configuration_names_its_variables() {
        let json = r#"{"kind":"env","chain":"NO_CHAIN_HERE","key":"NO_KEY","roots":"NO_ROOTS"}"#;
        let source = parse(json).unwrap().into_source();
        let error = source.fetch(ask(FetchReason::Start)).await.unwrap_err();
        assert!(told(&error).contains("NO_CHAIN_HERE, NO_KEY, NO_ROOTS"));
        assert!(tokio::time::timeout(SOON, source.changed()).await.is_err());
    }

    #[test]
    fn what_is_misspelt_or_makes_no_sense_is_refused_by_name() {
        let table = [
            (
                r#"{"kind":"file","chain":"a","roots":"b","pol_seconds":1}"#,
                "pol_seconds",
            ),
            (
                r#"{"kind":"env","chain":"a","roots":"b","keys":"c"}"#,
                "keys",
            ),
            (r#"{"kind":"file","chain":"a"}"#, "roots"),
            (
                r#"{"kind":"file","chain":"a","roots":7}"#,
                "a path or a list of paths",
            ),
            (
                r#"{"kind":"file","chain":"a","roots":"b","poll_seconds":0}"#,
                "nonzero",
            ),
            (r#"{"kind":"fil","chain":"a","roots":"b"}"#, "fil"),
        ];
        for (json, words) in table {
            let error = parse(json).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let json = r#"{"kind":"file","chain":"-----BEGIN SECRET","roots":"SECRET"}"#;
        assert!(!format!("{:?}", parse(json).unwrap()).contains("SECRET"));
    }

    #[cfg(feature = "encrypted-keys")]
    #[tokio::test]
    async fn passphrase_is_named_by_where_it_is() {
        let json = r#"{"kind":"env","chain":"a","roots":"b","passphrase":{"file":"/run/x"}}"#;
        let source = parse(json).unwrap().into_source();
        let _unset = in_time("an answer", source.fetch(ask(FetchReason::Start))).await;
        let json = json.replace("file", "literal");
        assert!(parse(&json).unwrap_err().contains("literal"));
    }
}
