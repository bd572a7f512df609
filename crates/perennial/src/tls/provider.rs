use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider of the enabled feature; aws-lc-rs if both are enabled.
///
/// With aws-lc-rs, the hybrid X25519MLKEM768 is offered first: a quantum computer of the future
/// cannot read traffic that is recorded today. rustls' feature `prefer-post-quantum` has the same
/// effect, but on every rustls user in the program.
pub(crate) fn default_provider() -> Option<Arc<CryptoProvider>> {
    #[cfg(feature = "aws-lc-rs")]
    {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.key_provider = &wiping::WipingKeys;
        // Stable: the order of the other groups stays.
        provider
            .kx_groups
            .sort_by_key(|group| group.name() != rustls::NamedGroup::X25519MLKEM768);
        Some(Arc::new(provider))
    }
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Some(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
    None
}

#[cfg(feature = "aws-lc-rs")]
mod wiping {
    use std::sync::Arc;

    use rustls::crypto::KeyProvider;
    use rustls::crypto::aws_lc_rs::{default_provider, sign};
    use rustls::sign::SigningKey;
    use rustls_pki_types::PrivateKeyDer;
    use zeroize::Zeroizing;

    /// Loads keys as rustls' own provider does, and wipes the bytes that it loads them from.
    #[derive(Debug)]
    pub(super) struct WipingKeys;

    impl KeyProvider for WipingKeys {
        fn load_private_key(
            &self,
            key: PrivateKeyDer<'static>,
        ) -> Result<Arc<dyn SigningKey>, rustls::Error> {
            sign::any_supported_type(&Zeroizing::new(key))
        }

        fn fips(&self) -> bool {
            default_provider().key_provider.fips()
        }
    }
}

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests {
    use rcgen::KeyPair;
    use rustls_pki_types::PrivateKeyDer;

    #[test]
    fn every_kind_of_key_is_loaded_as_rustls_loads_it() {
        let theirs = rustls::crypto::aws_lc_rs::default_provider().key_provider;
        let ours = super::default_provider().unwrap().key_provider;
        for kind in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let pair = KeyPair::generate_for(kind).unwrap();
            let der = || PrivateKeyDer::Pkcs8(pair.serialize_der().into());
            let ours = ours.load_private_key(der()).unwrap();
            let theirs = theirs.load_private_key(der()).unwrap();
            assert_eq!(ours.algorithm(), theirs.algorithm());
            assert_eq!(ours.public_key(), theirs.public_key());
        }
    }
}
