use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{default_provider, sign};
use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::sign::SigningKey;
use rustls_pki_types::{PrivateKeyDer, alg_id};
use zeroize::Zeroizing;

/// Loads keys as aws-lc-rs' own provider does, and spares those on P-256 and P-384 a detour.
///
/// That one tries every PKCS#8 key as RSA first, which parses a key on a curve, and checks it,
/// once for nothing. The bytes that a key is loaded from are wiped.
#[derive(Debug)]
pub(super) struct CurvesFirst;

impl KeyProvider for CurvesFirst {
    fn load_private_key(
        &self,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let key = Zeroizing::new(key);
        if is_on_a_curve(&key)
            && let Ok(signing) = sign::any_ecdsa_type(&key)
        {
            return Ok(signing);
        }
        sign::any_supported_type(&key)
    }

    fn fips(&self) -> bool {
        let CryptoProvider { key_provider, .. } = default_provider();
        key_provider.fips()
    }
}

/// No more than a hint: the bytes may stand anywhere.
fn is_on_a_curve(key: &PrivateKeyDer<'_>) -> bool {
    let PrivateKeyDer::Pkcs8(key) = key else {
        return false;
    };
    let key = key.secret_pkcs8_der();
    [alg_id::ECDSA_P256, alg_id::ECDSA_P384]
        .iter()
        .any(|id| key.windows(id.len()).any(|bytes| bytes == id.as_ref()))
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    #[test]
    fn every_kind_of_key_is_loaded_as_the_provider_loads_it() {
        let CryptoProvider { key_provider, .. } = default_provider();
        for (kind, curve) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, true),
            (&rcgen::PKCS_ECDSA_P384_SHA384, true),
            (&rcgen::PKCS_ECDSA_P521_SHA512, false),
            (&rcgen::PKCS_ED25519, false),
            (&rcgen::PKCS_RSA_SHA256, false),
        ] {
            let pair = KeyPair::generate_for(kind).unwrap();
            let der = || PrivateKeyDer::Pkcs8(pair.serialize_der().into());
            assert_eq!(is_on_a_curve(&der()), curve, "{kind:?}");
            let ours = CurvesFirst.load_private_key(der()).unwrap();
            let theirs = key_provider.load_private_key(der()).unwrap();
            assert_eq!(ours.algorithm(), theirs.algorithm());
            assert_eq!(ours.public_key(), theirs.public_key());
        }
    }
}
