//! The text of a saved certificate: headers, then chain, key and roots in PEM.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::material::{Anchoring, CertMaterial, Key, MaterialError, formats, part, pem};
use crate::source::CacheKey;

/// The version of the format that is written, and the only one that is read.
const VERSION: &str = "1";

/// A certificate as [`CertSource::saved_at`](crate::CertSource::saved_at) keeps it, with its key.
pub(crate) struct SavedCert {
    cache_key: CacheKey,
    obtained_at: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<PrivateKeyDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    anchoring: Anchoring,
}

/// Why a text is not a saved certificate. Never contains a byte of the private key.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SavedCertError {
    #[error("line {line} is not a header, or repeats one")]
    Header { line: usize },
    #[error("invalid header {name}")]
    Value { name: &'static str },
    #[error("{name} is missing")]
    Missing { name: &'static str },
    #[error("unknown version of the format: expected {VERSION}")]
    OtherVersion,
    #[error("the certificate or key cannot be read")]
    Material(#[source] MaterialError),
}

impl SavedCert {
    /// Reads a text. Checks the form alone: not the dates, nor that key and leaf match.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, SavedCertError> {
        let (headers, [chain, key, roots]) = split(text)?;
        let [version, cache_key, obtained_at, anchored] = headers;
        if needed("version", version)? != VERSION {
            return Err(SavedCertError::OtherVersion);
        }
        let cache_key = needed("request", cache_key)?;
        let obtained_at = needed("obtained-at", obtained_at)?;
        let anchoring = match needed("roots-issue-leaf", anchored)? {
            "yes" => Anchoring::RootsIssueLeaf,
            "no" => Anchoring::ServersOnly,
            _ => return Err(invalid("roots-issue-leaf")),
        };
        let certificates =
            |part, text| formats::pem_certificates(part, text).map_err(SavedCertError::Material);
        let key = formats::pem_private_key(needed("key", key)?, None);
        Ok(Self {
            cache_key: cache_key_of(cache_key).ok_or_else(|| invalid("request"))?,
            obtained_at: time_of(obtained_at).ok_or_else(|| invalid("obtained-at"))?,
            chain: certificates(part::CHAIN, needed("chain", chain)?)?,
            key: Zeroizing::new(key.map_err(SavedCertError::Material)?),
            roots: certificates(part::ROOTS, needed("roots", roots)?)?,
            anchoring,
        })
    }

    /// Copies the material. `None` if its key stays in a device.
    pub(super) fn of(
        material: &CertMaterial,
        cache_key: CacheKey,
        obtained_at: SystemTime,
    ) -> Option<Self> {
        let Key::Der(key) = material.key() else {
            return None;
        };
        Some(Self {
            cache_key,
            obtained_at,
            chain: material.chain().to_vec(),
            key: Zeroizing::new(key.clone_key()),
            roots: material.roots().to_vec(),
            anchoring: material.anchoring(),
        })
    }

    /// The cache key of the source that delivered it.
    pub(super) fn cache_key(&self) -> CacheKey {
        self.cache_key
    }

    /// When it was fetched, wall clock.
    pub(super) fn obtained_at(&self) -> SystemTime {
        self.obtained_at
    }

    /// The material, with the time at which it was obtained.
    pub(crate) fn to_material(&self) -> Result<CertMaterial, MaterialError> {
        let (chain, roots) = (self.chain.clone(), self.roots.clone());
        let material = CertMaterial::from_der(chain, self.key.clone_key(), roots)?;
        let material = match self.anchoring {
            Anchoring::RootsIssueLeaf => material.roots_issue_leaf(),
            Anchoring::ServersOnly => material,
        };
        Ok(material.obtained_at(self.obtained_at))
    }

    /// The text to save.
    pub(super) fn render(&self) -> Zeroizing<String> {
        // More than needed: a text that grows leaves copies of the key in memory.
        let certificates = self.chain.iter().chain(&self.roots);
        let size: usize = certificates.map(|der| der.len() + 64).sum();
        let size = 1_024 + 2 * (size + self.key.secret_der().len());
        let mut text = Zeroizing::new(String::with_capacity(size));

        let since = self.obtained_at.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let anchored = match self.anchoring {
            Anchoring::RootsIssueLeaf => "yes",
            Anchoring::ServersOnly => "no",
        };
        *text +=
            "# Saved by perennial for its next start. Contains a private key: keep it secret.\n";
        *text += &format!("version: {VERSION}\n");
        *text += &format!("request: {}\n", hex(self.cache_key.as_bytes()));
        *text += &format!(
            "obtained-at: {}.{:09}\n",
            since.as_secs(),
            since.subsec_nanos()
        );
        *text += &format!("roots-issue-leaf: {anchored}\n");
        *text += "\nchain:\n";
        for certificate in &self.chain {
            pem::write(&mut text, "CERTIFICATE", certificate);
        }
        *text += "\nkey:\n";
        let label = match &*self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem::write(&mut text, label, self.key.secret_der());
        *text += "\nroots:\n";
        for certificate in &self.roots {
            pem::write(&mut text, "CERTIFICATE", certificate);
        }
        text
    }
}

impl fmt::Debug for SavedCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedCert")
            .field("cache_key", &self.cache_key)
            .field("obtained_at", &self.obtained_at)
            .field("chain", &self.chain.len())
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

/// The names of the headers in their order; `request` is the cache key.
const HEADERS: [&str; 4] = ["version", "request", "obtained-at", "roots-issue-leaf"];

type Headers<'a> = [Option<&'a str>; 4];

type Parts<'a> = [Option<&'a [u8]>; 3];

/// The parts in their order, and the lines that they begin with.
const PARTS: [&[u8]; 3] = [b"chain:", b"key:", b"roots:"];

/// Splits the text at the lines that name a part.
fn split(text: &[u8]) -> Result<(Headers<'_>, Parts<'_>), SavedCertError> {
    let (mut headers, mut parts) = ([None; 4], [None; 3]);
    // The part that is being read, and where it begins.
    let mut open: Option<(usize, usize)> = None;
    let mut offset = 0;
    for (index, raw) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let refused = SavedCertError::Header { line: index + 1 };
        let line = raw.trim_ascii();
        let begun = offset;
        offset += raw.len();
        let Some(part) = PARTS.iter().position(|name| *name == line) else {
            if open.is_none() {
                header(line, &mut headers).ok_or(refused)?;
            }
            continue;
        };
        if let Some((part, from)) = open.replace((part, offset)) {
            parts[part] = Some(&text[from..begun]);
        }
        if parts[part].is_some() {
            return Err(refused);
        }
    }
    if let Some((part, from)) = open {
        parts[part] = Some(&text[from..]);
    }
    Ok((headers, parts))
}

/// Notes one line before the first part; `None` if it is not a header, or repeats one.
fn header<'a>(line: &'a [u8], headers: &mut Headers<'a>) -> Option<()> {
    if line.is_empty() || line.starts_with(b"#") {
        return Some(());
    }
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    let place = HEADERS.iter().position(|header| *header == name)?;
    headers[place].replace(value.trim()).is_none().then_some(())
}

fn invalid(name: &'static str) -> SavedCertError {
    SavedCertError::Value { name }
}

fn needed<T>(name: &'static str, value: Option<T>) -> Result<T, SavedCertError> {
    value.ok_or(SavedCertError::Missing { name })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cache_key_of(hex: &str) -> Option<CacheKey> {
    let mut bytes = [0; 32];
    if hex.len() != 2 * bytes.len() || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(CacheKey::from_bytes(bytes))
}

fn time_of(text: &str) -> Option<SystemTime> {
    let (seconds, nanos) = text.split_once('.')?;
    if nanos.len() != 9 || !nanos.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let since = Duration::new(seconds.parse().ok()?, nanos.parse().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{MINUTE, TestCa, noon};

    fn saved() -> SavedCert {
        let material = TestCa::new().issue(noon(), MINUTE).roots_issue_leaf();
        let at = noon() + Duration::from_nanos(5);
        SavedCert::of(&material, CacheKey::of([b"app".as_slice()]), at).unwrap()
    }

    #[test]
    fn saved_certificate_is_read_again_to_the_nanosecond() {
        let saved = saved();
        let read = SavedCert::parse(saved.render().as_bytes()).unwrap();
        assert_eq!(read.cache_key(), saved.cache_key());
        assert_eq!(read.obtained_at(), saved.obtained_at());
        assert_eq!(read.anchoring, saved.anchoring);
        let digest = |saved: &SavedCert| saved.to_material().unwrap().digest();
        assert_eq!(digest(&read), digest(&saved));
    }

    #[test]
    fn text_is_reserved_in_full_so_that_no_copy_of_the_key_remains() {
        let saved = saved();
        let text = saved.render();
        let size = 1_024 + 2 * saved.chain.iter().map(|der| der.len()).sum::<usize>();
        assert!(text.len() < text.capacity() && text.capacity() > size);
    }

    #[test]
    fn damaged_text_is_refused_and_named() {
        let text = saved().render();
        let table: [(&str, &str, &str); 9] = [
            ("version: 1", "version: 2", "unknown version"),
            ("version: 1\n", "", "version is missing"),
            ("version: 1", "version: 1\nversion: 1", "line 3"),
            ("request: ", "request: zz", "header request"),
            ("obtained-at: ", "obtained-at: -", "header obtained-at"),
            (
                "obtained-at: ",
                "obtained-at: 99999999999999999999",
                "header obtained-at",
            ),
            (
                "roots-issue-leaf: yes",
                "roots-issue-leaf: perhaps",
                "roots-issue-leaf",
            ),
            ("\nroots:\n", "\n", "roots is missing"),
            ("\nkey:\n", "\nkey:\nkey:\n", "not a header"),
        ];
        for (old, new, expected) in table {
            assert!(text.contains(old), "{old}");
            let damaged = text.replacen(old, new, 1);
            let error = SavedCert::parse(damaged.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn every_incomplete_text_is_refused() {
        let text = saved().render();
        let end = text.trim_end().len();
        for length in 0..end {
            assert!(
                SavedCert::parse(&text.as_bytes()[..length]).is_err(),
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            place in 0usize..2_000,
        ) {
            let mut text = saved().render().as_bytes().to_vec();
            let place = place.min(text.len());
            let end = (place + bytes.len()).min(text.len());
            let _ = SavedCert::parse(&bytes);
            text.splice(place..end, bytes);
            let _ = SavedCert::parse(&text);
        }
    }
}
