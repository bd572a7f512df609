//! The text of a saved certificate: a line of facts, then chain, key and roots in PEM, and a seal.

use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use crate::digest::digest;
use crate::material::{CertMaterial, Key, MaterialError, formats, part, pem};
use crate::source::CacheKey;

/// The first line, with the one format that is written and read.
const HEAD: &str = "# Saved by perennial, format 1. Contains a private key: keep it secret.\n";

/// A certificate as [`CertSource::saved_at`](crate::CertSource::saved_at) keeps it, with its key.
#[derive(Debug)]
pub(crate) struct SavedCert {
    /// The cache key of the source that delivered it.
    pub(super) cache_key: CacheKey,
    /// Knows when it was obtained.
    pub(crate) material: CertMaterial,
}

/// Why a text is not a saved certificate. Never contains a byte of the private key.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SavedCertError {
    #[error("unknown format: expected format 1")]
    OtherFormat,
    #[error("invalid second line")]
    Facts,
    #[error("the certificate or key cannot be read")]
    Material(#[from] MaterialError),
    #[error("it is not as it was written")]
    Changed,
}

impl SavedCert {
    /// Reads a text. Checks the form alone: not the dates, nor that key and leaf match.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, SavedCertError> {
        let rest = text.strip_prefix(HEAD.as_bytes());
        let rest = rest.ok_or(SavedCertError::OtherFormat)?;
        let line = rest.split(|&byte| byte == b'\n').next();
        let facts = line.and_then(facts).ok_or(SavedCertError::Facts)?;
        let (obtained_at, chain_length, roots_issue_leaf, cache_key) = facts;

        let mut chain = formats::pem_certificates(part::CHAIN, rest)?;
        let roots = chain.split_off(chain_length.min(chain.len()));
        let key = formats::pem_private_key(rest, None)?;
        let mut material = CertMaterial::with_key(chain, key, roots)?.obtained_at(obtained_at);
        if roots_issue_leaf {
            material = material.roots_issue_leaf();
        }
        // Last, so that the fuzzer reaches the rest.
        let (sealed, end) = text.split_at(text.len().saturating_sub(SEAL_LENGTH));
        if seal(sealed).as_bytes() != end {
            return Err(SavedCertError::Changed);
        }
        Ok(Self {
            cache_key,
            material,
        })
    }
}

/// The text to save. `None` if the key stays in a device.
pub(super) fn render(
    material: &CertMaterial,
    cache_key: CacheKey,
    obtained_at: SystemTime,
) -> Option<Zeroizing<Vec<u8>>> {
    let Key::Der(key) = material.key() else {
        return None;
    };
    // More than needed: a text that grows leaves copies of the key in memory.
    let certificates = material.chain().iter().chain(material.roots());
    let size: usize = certificates.map(|der| der.len() + 64).sum();
    let size = 1_024 + 2 * (size + key.secret_der().len());
    let mut text = Zeroizing::new(Vec::with_capacity(size));

    let since = obtained_at.duration_since(SystemTime::UNIX_EPOCH);
    let facts = format!(
        "{HEAD}{} {} {} {}\n",
        since.unwrap_or_default().as_nanos(),
        material.chain().len(),
        material.roots_must_issue_leaf(),
        Base64::encode_string(cache_key.as_bytes()),
    );
    text.extend(facts.bytes());
    for certificate in material.chain() {
        pem::write(&mut text, "CERTIFICATE", certificate);
    }
    pem::write_key(&mut text, key);
    for root in material.roots() {
        pem::write(&mut text, "CERTIFICATE", root);
    }
    let seal = seal(&text);
    text.extend(seal.bytes());
    Some(text)
}

/// When it was obtained, the chain's length, whether the roots issue the leaf, and the cache key.
fn facts(line: &[u8]) -> Option<(SystemTime, usize, bool, CacheKey)> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let nanos = Duration::from_nanos(words.next()?.parse().ok()?);
    let obtained_at = SystemTime::UNIX_EPOCH.checked_add(nanos)?;
    let (chain_length, roots_issue_leaf) = (words.next()?, words.next()?);
    let cache_key = Base64::decode_vec(words.next()?).ok()?.try_into().ok()?;
    Some((
        obtained_at,
        chain_length.parse().ok()?,
        roots_issue_leaf.parse().ok()?,
        CacheKey::from_bytes(cache_key),
    ))
}

/// The length of [`seal`] in bytes.
const SEAL_LENGTH: usize = 45;

/// The last line, by which a text that is not whole is noticed.
pub(super) fn seal(text: &[u8]) -> String {
    Base64::encode_string(&digest([text])) + "\n"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{MINUTE, TestCa, noon};

    fn material() -> CertMaterial {
        TestCa::new().issue(noon(), MINUTE).roots_issue_leaf()
    }

    fn cache_key() -> CacheKey {
        CacheKey::of([b"app".as_slice()])
    }

    fn text_of(material: &CertMaterial) -> Zeroizing<Vec<u8>> {
        render(material, cache_key(), noon() + Duration::from_nanos(5)).unwrap()
    }

    #[test]
    fn saved_certificate_is_read_again_to_the_nanosecond() {
        let saved = material();
        let read = SavedCert::parse(&text_of(&saved)).unwrap();
        assert_eq!(read.cache_key, cache_key());
        let obtained_at = noon() + Duration::from_nanos(5);
        assert_eq!(read.material.when_obtained(), Some(obtained_at));
        assert!(read.material.roots_must_issue_leaf());
        assert_eq!(read.material.digest(), saved.digest());
    }

    #[test]
    fn text_is_reserved_in_full_so_that_no_copy_of_the_key_remains() {
        let saved = material();
        let text = text_of(&saved);
        let size = 1_024 + 2 * saved.chain().iter().map(|der| der.len()).sum::<usize>();
        assert!(text.len() < text.capacity() && text.capacity() > size);
    }

    #[test]
    fn damaged_text_is_refused_and_named() {
        let text = String::from_utf8(text_of(&material()).to_vec()).unwrap();
        let facts = text.lines().nth(1).unwrap().to_owned();
        let root = text.rfind("-----BEGIN").unwrap();
        let root = text[root..].lines().nth(1).unwrap();
        let key = "-----BEGIN PRIVATE KEY-----";
        let second = format!("{key}\n-----END PRIVATE KEY-----\n{key}");
        let table: [(&str, &str, &str); 15] = [
            ("format 1", "format 2", "unknown format"),
            (HEAD, "", "unknown format"),
            (HEAD, &format!("{HEAD}{HEAD}"), "second line"),
            (&facts, "", "second line"),
            (&facts, &format!("-{facts}"), "second line"),
            (&facts, &format!("99999{facts}"), "second line"),
            (" true ", " perhaps ", "second line"),
            (" true ", " ", "second line"),
            ("=\n", "==\n", "second line"),
            (" 2 true ", " 1 true ", "not as it was written"),
            (" true ", " false ", "not as it was written"),
            (" 2 true ", " 3 true ", "not as it was written"),
            (" 2 true ", " 0 true ", "cannot be read"),
            (root, &root[4..], "not as it was written"),
            (key, &second, "cannot be read"),
        ];
        for (old, new, expected) in table {
            assert!(text.contains(old), "{old}");
            let damaged = text.replacen(old, new, 1);
            let error = SavedCert::parse(damaged.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{new}: {error}");
        }
    }

    #[test]
    fn every_incomplete_text_is_refused() {
        let text = text_of(&material());
        for length in 0..text.len() {
            assert!(SavedCert::parse(&text[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            place in 0usize..2_000,
        ) {
            let mut text = text_of(&material()).to_vec();
            let place = place.min(text.len());
            let end = (place + bytes.len()).min(text.len());
            let _ = SavedCert::parse(&bytes);
            text.splice(place..end, bytes);
            let _ = SavedCert::parse(&text);
        }
    }
}
