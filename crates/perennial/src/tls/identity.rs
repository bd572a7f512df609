use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, PeerIncompatible, SignatureAlgorithm, SignatureScheme};

/// Presents one certificate, or fails the handshake if the server takes no signature of its key.
///
/// rustls would present no certificate then and go on: a server that has another way to log in would
/// let the client in as one without a certificate.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    certified: Arc<CertifiedKey>,
    /// The same chain with a key that signs nothing.
    cannot_sign: Arc<CertifiedKey>,
}

impl From<CertifiedKey> for ClientIdentity {
    fn from(certified: CertifiedKey) -> Self {
        let key = Arc::new(CannotSign(certified.key.algorithm()));
        Self {
            cannot_sign: Arc::new(CertifiedKey::new(certified.cert.clone(), key)),
            certified: Arc::new(certified),
        }
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        accepted: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let certified = match self.certified.key.choose_scheme(accepted) {
            Some(_) => &self.certified,
            None => &self.cannot_sign,
        };
        Some(Arc::clone(certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A key that fails the handshake when it should sign.
#[derive(Debug)]
struct CannotSign(SignatureAlgorithm);

impl SigningKey for CannotSign {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        // Any will do, since nothing is signed; `None` would go on without a certificate.
        let scheme = offered.first().copied();
        let scheme = scheme.unwrap_or(SignatureScheme::ECDSA_NISTP256_SHA256);
        Some(Box::new(FailingSigner(scheme)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0
    }
}

#[derive(Debug)]
struct FailingSigner(SignatureScheme);

impl Signer for FailingSigner {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Err(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon.into())
    }

    fn scheme(&self) -> SignatureScheme {
        self.0
    }
}
