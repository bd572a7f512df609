use std::error::Error;

use rcgen::{CertificateParams, KeyPair};
#[cfg(feature = "aws-lc-rs")]
use rcgen::{PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// The type of the key that this process generates for each certificate.
///
/// The role's `key_type` and `key_bits` must allow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyType {
    /// ECDSA on P-256; generated in about 30 µs.
    #[default]
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// Ed25519; check that the servers accept it.
    Ed25519,
    /// RSA with 2048 bits, generated in 50 ms or more; only with the feature `aws-lc-rs`.
    Rsa2048,
    /// RSA with 3072 bits; only with the feature `aws-lc-rs`.
    Rsa3072,
    /// RSA with 4096 bits, generated in up to seconds; only with the feature `aws-lc-rs`.
    Rsa4096,
}

impl KeyType {
    pub(crate) fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }

    fn generate(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::EcP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::EcP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            #[cfg(feature = "aws-lc-rs")]
            Self::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            #[cfg(feature = "aws-lc-rs")]
            Self::Rsa3072 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
            #[cfg(feature = "aws-lc-rs")]
            Self::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
            #[cfg(not(feature = "aws-lc-rs"))]
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                Err(rcgen::Error::KeyGenerationUnavailable)
            }
        }
    }
}

/// A new key, and the signing request that it signed.
pub(crate) struct NewKey {
    pub(crate) key: Zeroizing<PrivateKeyDer<'static>>,
    /// PEM.
    pub(crate) request: String,
}

impl NewKey {
    /// Generates an RSA key on a blocking thread, so that no other task waits for it.
    ///
    /// # Cancel safety
    /// If cancelled, the generation of an RSA key continues, and the key is wiped.
    pub(crate) async fn generate(
        kind: KeyType,
        names: &CertificateParams,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        if kind.is_rsa() {
            let names = names.clone();
            let made =
                tokio::task::spawn_blocking(move || Self::generate_here(kind, &names)).await?;
            return Ok(made?);
        }
        Ok(Self::generate_here(kind, names)?)
    }

    fn generate_here(kind: KeyType, names: &CertificateParams) -> Result<Self, rcgen::Error> {
        // It does not wipe itself.
        let pair = Zeroizing::new(kind.generate()?);
        let request = names.serialize_request(&*pair)?.pem()?;
        let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
        Ok(Self {
            key: Zeroizing::new(key.into()),
            request,
        })
    }
}

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Scenario: S15
    #[tokio::test]
    async fn rsa_key_is_generated_off_the_worker_threads() {
        let names = CertificateParams::default();
        let waits = |kind| {
            let mut generated = pin!(NewKey::generate(kind, &names));
            let polled = generated
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            polled.is_pending()
        };
        // A key that is generated here is ready at the first poll.
        assert!(waits(KeyType::Rsa4096));
        assert!(!waits(KeyType::EcP256));
    }
}
