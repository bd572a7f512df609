//! Real files and fake sources for the sources' tests, and waiting without fixed sleeps.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::testing::{MINUTE, ScriptedSource, TestCa};
use crate::{
    CacheKey, CertMaterial, CertSource, FetchContext, FetchReason, Fetched, FileSource, LiveCert,
    Snapshot, SourceError,
};

pub(super) const SOON: Duration = Duration::from_millis(20);

/// Longer than anything here takes on a machine under load.
const DEADLINE: Duration = Duration::from_secs(60);

#[expect(
    clippy::disallowed_methods,
    reason = "files are read by the real clock"
)]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// Chain, key and roots in PEM, valid for ten minutes.
pub(super) fn pem(ca: &TestCa) -> (String, String, String) {
    ca.pem(now() - Duration::from_secs(5), 10 * MINUTE)
}

pub(super) fn ask(reason: FetchReason) -> FetchContext<'static> {
    FetchContext::new(reason, None)
}

/// Waits by the real clock until `condition` holds.
#[expect(clippy::disallowed_methods, reason = "real files change in real time")]
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(DEADLINE, future).await;
    ended.unwrap_or_else(|_late| panic!("never happened: {what}"))
}

/// An error with all its causes, as text and as `Debug`.
pub(super) fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A folder with `tls.crt`, `tls.key` and `ca.crt`.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn of((chain, key, roots): &(String, String, String)) -> Self {
        let files = Self::empty();
        for (name, text) in [("tls.crt", chain), ("tls.key", key), ("ca.crt", roots)] {
            files.write(name, text);
        }
        files
    }

    pub(super) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Looks often, so that tests are quick; asks the system too.
    pub(super) fn source(&self) -> FileSource {
        FileSource::new(
            self.path("tls.crt"),
            self.path("tls.key"),
            self.path("ca.crt"),
        )
        .poll_every(SOON)
    }
}

pub(super) async fn generation(live: &LiveCert, wanted: u64) {
    until(&format!("generation {wanted}"), || {
        live.current().is_ok_and(|now| now.generation() >= wanted)
    })
    .await;
    assert_eq!(live.current().unwrap().generation(), wanted);
}

pub(super) fn certificate(fetched: Fetched) -> CertMaterial {
    match fetched {
        Fetched::Certificate(material) => material,
        Fetched::Roots(roots) => panic!("only {} roots", roots.len()),
    }
}

/// A scripted source with a cache key; counts the generations that were published to it.
#[derive(Clone)]
pub(super) struct KeyedSource {
    source: ScriptedSource,
    key: Option<CacheKey>,
    pub(super) published: Arc<Mutex<Vec<u64>>>,
}

impl KeyedSource {
    pub(super) fn new(source: &ScriptedSource, key: Option<&str>) -> Self {
        Self {
            source: source.clone(),
            key: key.map(|key| CacheKey::of([key.as_bytes()])),
            published: Arc::default(),
        }
    }
}

impl CertSource for KeyedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.source.fetch(context).await
    }

    fn published(&self, snapshot: &Arc<Snapshot>) {
        self.published.lock().unwrap().push(snapshot.generation());
    }

    fn cache_key(&self) -> Option<CacheKey> {
        self.key
    }
}

pub(super) const EC_PKCS8: &str = include_str!("../../tests/sources/keys/ec.pkcs8.pem");

/// A chain of one and its root, for a key in PKCS#8: valid for ten minutes.
pub(super) fn issued_for(key: &str) -> (String, String) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
    params.not_before = (now() - Duration::from_secs(5)).into();
    params.not_after = (now() + 10 * MINUTE).into();
    let key = KeyPair::from_pem(key).unwrap();
    (params.signed_by(&key, &ca).unwrap().pem(), ca.pem())
}

/// The DER that is in the first block of a PEM text.
pub(super) fn der(pem: &str) -> Vec<u8> {
    use base64ct::{Base64, Encoding};
    let lines = pem
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"));
    let lines = lines
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"));
    Base64::decode_vec(&lines.collect::<String>()).unwrap()
}

/// Fails if any sixteen characters of a key's base64 are in the text.
pub(super) fn assert_no_key_in(shown: &str, key: &str) {
    for line in key.lines().filter(|line| !line.starts_with("-----")) {
        for at in 0..line.len().saturating_sub(16) {
            assert!(!shown.contains(&line[at..at + 16]), "{shown}");
        }
    }
    let bytes = format!("{:?}", &der(key)[..12]);
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
}
