use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateDer;

use super::{certificates, self_issued};
use crate::error::VaultError;

/// The certificates above the leaf in an answer.
pub(crate) struct AboveLeaf {
    texts: Vec<String>,
    pub(super) issuers: Vec<CertificateDer<'static>>,
    /// Those of them that are roots.
    pub(crate) roots: Vec<CertificateDer<'static>>,
}

impl AboveLeaf {
    pub(crate) fn read(texts: &[String]) -> Result<Self, VaultError> {
        let mut issuers = Vec::new();
        for text in texts {
            issuers.extend(certificates(text)?);
        }
        Ok(Self {
            texts: texts.to_vec(),
            roots: self_issued(&issuers)?,
            issuers,
        })
    }
}

/// Those of the last answer: most renewals bring the same, which are not read again.
#[derive(Default)]
pub(crate) struct LastAboveLeaf(Mutex<Option<Arc<AboveLeaf>>>);

impl LastAboveLeaf {
    /// What these texts hold; nothing of what cannot be read is kept.
    pub(super) fn or_read(&self, texts: &[String]) -> Result<Arc<AboveLeaf>, VaultError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = last.as_ref().filter(|last| last.texts == texts) {
            return Ok(Arc::clone(same));
        }
        let read = Arc::new(AboveLeaf::read(texts)?);
        *last = Some(Arc::clone(&read));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn certificates_above_the_leaf_are_read_anew_once_they_change() {
        let ca = || {
            let key = KeyPair::generate().expect("a key");
            let made = CertificateParams::default().self_signed(&key);
            made.expect("a root")
        };
        let (one, other) = (ca(), ca());
        let last = LastAboveLeaf::default();
        let read = |texts: &[String]| last.or_read(texts).expect("they are read");
        let first = read(&[one.pem()]);
        assert!(Arc::ptr_eq(&first, &read(&[one.pem()])));
        assert_eq!(first.roots, [one.der().clone()]);
        last.or_read(&["-----BEGIN CERTIFICATE-----\n!".to_owned()])
            .err()
            .expect("it is mangled");
        for texts in [vec![other.pem()], vec![other.pem(), one.pem()]] {
            assert_eq!(read(&texts).issuers.len(), texts.len());
            assert_eq!(read(&texts).roots[0], *other.der());
        }
    }
}
