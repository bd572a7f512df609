use std::fmt;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::Snapshot;
use crate::material::{Key, MaterialError, pem};

/// A certificate as PEM texts, for libraries that take nothing else.
///
/// The key is wiped from memory when this is dropped; what a library copies is not.
pub struct Exported {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    roots: Vec<u8>,
}

impl Exported {
    /// The certificates that are presented, the leaf first.
    pub fn chain(&self) -> &str {
        ascii(&self.chain)
    }

    /// The private key, in the form in which it was delivered: PKCS#8, SEC1 or PKCS#1.
    pub fn key(&self) -> &str {
        ascii(&self.key)
    }

    /// The roots that were delivered; empty without any. Not those of
    /// [`TlsSettings`](crate::TlsSettings).
    pub fn roots(&self) -> &str {
        ascii(&self.roots)
    }
}

impl Snapshot {
    /// Chain, private key and roots as PEM.
    ///
    /// A last resort, for libraries that take no rustls config and no resolver: they keep copies of
    /// the key, and verify servers by rules of their own. Ask again for each generation, and end the
    /// connections of the old one. The first export of a live certificate's key is logged.
    ///
    /// # Errors
    /// [`MaterialError::KeyOfSigner`]: the key was given as a
    /// [`SigningKey`](crate::CertMaterial::from_signing_key), as one in a device.
    #[cfg_attr(docsrs, doc(cfg(feature = "export")))]
    pub fn export(&self) -> Result<Exported, MaterialError> {
        let Key::Der(key) = self.material.key() else {
            return Err(MaterialError::KeyOfSigner);
        };
        // More than needed: a text that grows leaves copies of the key in memory.
        let mut text = Zeroizing::new(Vec::with_capacity(128 + 2 * key.secret_der().len()));
        pem::write_key(&mut text, key);
        if !self.tls.note_export() {
            let (generation, serial) = (self.generation, self.serial());
            tracing::info!(generation, %serial, "private key exported as PEM");
        }
        Ok(Exported {
            chain: certificates(self.tls.chain()),
            key: text,
            roots: certificates(&self.trusted_roots.delivered),
        })
    }
}

fn certificates(list: &[CertificateDer<'_>]) -> Vec<u8> {
    let mut text = Vec::new();
    for der in list {
        pem::write(&mut text, "CERTIFICATE", der);
    }
    text
}

fn ascii(text: &[u8]) -> &str {
    // PEM is ASCII.
    std::str::from_utf8(text).unwrap_or_default()
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exported").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::testing::{MINUTE, TestCa, noon};
    use crate::{CertMaterial, LiveCert, MaterialError};

    #[test]
    fn exported_certificate_is_what_is_presented_and_its_key_is_in_no_debug() {
        let ca = TestCa::new();
        let clock = crate::testing::TestClock::starting_at(noon());
        let live = LiveCert::builder().clock(&clock);
        let live = live.fixed(ca.issue(noon(), MINUTE)).unwrap();
        let snapshot = live.current().unwrap();
        let exported = snapshot.export().unwrap();
        let (chain, key, roots) = (exported.chain(), exported.key(), exported.roots());
        let read = CertMaterial::from_pem(chain, key, roots).unwrap();
        assert!(snapshot.is_made_of(&read));
        assert_eq!(read.roots(), [ca.root_der()]);
        let debug = format!("{exported:?}");
        assert!(key.lines().all(|line| !debug.contains(line)), "{debug}");
        // A text that grew would have left copies of the key in memory.
        assert!(exported.key.capacity() > key.len() + 64);
        // Logged once a live certificate.
        assert!(snapshot.tls.note_export());
    }

    #[test]
    fn key_that_stays_in_a_device_is_not_exported() {
        let ca = TestCa::new();
        let (leaf, key) = ca.leaf(noon(), MINUTE);
        let provider = crate::tls::default_provider().unwrap().key_provider;
        let signer = provider.load_private_key(key).unwrap();
        let material = CertMaterial::from_signing_key(vec![leaf], signer, vec![ca.root_der()]);
        let clock = crate::testing::TestClock::starting_at(noon());
        let live = LiveCert::builder().clock(&clock);
        let snapshot = live.fixed(material.unwrap()).unwrap().current().unwrap();
        let refused = Arc::clone(&snapshot).export().unwrap_err();
        assert!(matches!(refused, MaterialError::KeyOfSigner));
    }
}
