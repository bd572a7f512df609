use std::sync::Arc;

use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, PeerIncompatible, SignatureAlgorithm, SignatureScheme};

/// Presents one certificate, or fails the handshake if the server takes no signature of its key.
///
/// rustls would present no certificate then and go on: a server that has another way to log in would
/// let the client in as one without a certificate.
#[derive(Debug)]
pub(super) struct Certified {
    certified: Arc<CertifiedKey>,
    /// The same chain with a key that signs nothing.
    cannot_sign: Arc<CertifiedKey>,
}

impl From<CertifiedKey> for Certified {
    fn from(certified: CertifiedKey) -> Self {
        let key = Arc::new(CannotSign {
            algorithm: certified.key.algorithm(),
            cause: PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon.into(),
        });
        Self {
            cannot_sign: Arc::new(CertifiedKey::new(certified.cert.clone(), key)),
            certified: Arc::new(certified),
        }
    }
}

impl Certified {
    /// To a server that takes these signatures.
    pub(super) fn as_client(&self, accepted: &[SignatureScheme]) -> &Arc<CertifiedKey> {
        match self.certified.key.choose_scheme(accepted) {
            Some(_) => &self.certified,
            None => &self.cannot_sign,
        }
    }

    /// To a client: rustls fails the handshake if that takes no signature of the key.
    pub(super) fn as_server(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

/// No certificate, with a key that fails the handshake with this cause.
pub(super) fn cannot_sign(cause: Error) -> Arc<CertifiedKey> {
    let key = CannotSign {
        algorithm: SignatureAlgorithm::ECDSA,
        cause,
    };
    Arc::new(CertifiedKey::new(Vec::new(), Arc::new(key)))
}

/// A key that fails the handshake when it should sign.
#[derive(Debug)]
struct CannotSign {
    algorithm: SignatureAlgorithm,
    cause: Error,
}

impl SigningKey for CannotSign {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        // Any will do, since nothing is signed; `None` would go on without a certificate.
        let scheme = offered.first().copied();
        let scheme = scheme.unwrap_or(SignatureScheme::ECDSA_NISTP256_SHA256);
        Some(Box::new(FailingSigner {
            scheme,
            cause: self.cause.clone(),
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

#[derive(Debug)]
struct FailingSigner {
    scheme: SignatureScheme,
    cause: Error,
}

impl Signer for FailingSigner {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Err(self.cause.clone())
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
