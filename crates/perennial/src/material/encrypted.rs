//! Encrypted PKCS#8 (RFC 5958, 3) with PBES2 (RFC 8018), as `openssl pkcs8 -topk8` writes it.

use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::pkcs5::{self, EncryptionScheme};
use pkcs8::{EncryptedPrivateKeyInfoRef, Error};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::MaterialError;

/// The most rounds of PBKDF2: RFC 8018, 4.2 recommends this number for the most critical keys.
const MOST_ROUNDS: u32 = 10_000_000;

/// The most bytes that scrypt may fill; OpenSSL's own keys take 16 MiB.
const MOST_MEMORY: u64 = 256 << 20;

/// Decrypts a key. Takes time for each round, so it must not run on an async worker.
pub(super) fn decrypt(
    der: &[u8],
    passphrase: &[u8],
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let sealed = EncryptedPrivateKeyInfoRef::try_from(der)
        // The parser's own error may quote bytes of the key.
        .map_err(|_quotes_bytes| refused("expected PBES2 of PKCS#5"))?;
    if is_too_costly(&sealed.encryption_algorithm) {
        return Err(refused(
            "deriving the encryption key would take too much time or memory",
        ));
    }
    let opened = sealed.decrypt(passphrase).map_err(|error| {
        refused(match error {
            Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { .. }) => {
                "unsupported cipher or hash; convert the key with `openssl pkcs8 -topk8 -v2 aes256`"
            }
            // With a wrong passphrase, one time in 256 the padding is right and the content noise.
            _ => "wrong passphrase",
        })
    })?;
    Ok(PrivatePkcs8KeyDer::from(opened.as_bytes())
        .clone_key()
        .into())
}

fn is_too_costly(scheme: &EncryptionScheme) -> bool {
    let Some(parameters) = scheme.pbes2() else {
        return false;
    };
    match &parameters.kdf {
        Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count > MOST_ROUNDS,
        Kdf::Scrypt(scrypt) => {
            // RFC 7914, 2: 128 · r · N bytes, filled p times.
            let memory = u64::from(scrypt.block_size)
                .saturating_mul(128)
                .saturating_mul(scrypt.cost_parameter);
            memory.saturating_mul(scrypt.parallelization.into()) > MOST_MEMORY
        }
        _ => false,
    }
}

fn refused(problem: &'static str) -> MaterialError {
    MaterialError::Encrypted { problem }
}
