//! Encrypted PKCS#8 (RFC 5958, 3) by PBES2 (RFC 8018): what `openssl pkcs8 -topk8` writes.

use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::pkcs5::{self, EncryptionScheme};
use pkcs8::{EncryptedPrivateKeyInfoRef, Error};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::error::MaterialError;

/// More rounds of PBKDF2 than this are refused: RFC 8018, 4.2 names it for the most critical keys.
const MOST_ROUNDS: u32 = 10_000_000;

/// More bytes than this for scrypt to fill are refused; OpenSSL's own keys take 16 MiB.
const MOST_MEMORY: u64 = 256 << 20;

/// Opens a key; takes as long as its rounds are many, so keep it off async workers.
pub(crate) fn decrypt(
    der: &[u8],
    passphrase: &[u8],
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let sealed = EncryptedPrivateKeyInfoRef::try_from(der)
        .map_err(|_about_bytes| refused("its encryption is not PBES2 of PKCS#5"))?;
    if is_too_costly(&sealed.encryption_algorithm) {
        return Err(refused(
            "deriving its key would cost too much time or memory",
        ));
    }
    let opened = sealed.decrypt(passphrase).map_err(|error| {
        refused(match error {
            Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { .. }) => {
                "its cipher or hash is not known; convert it with `openssl pkcs8 -topk8 -v2 aes256`"
            }
            // With a wrong key, one time in 256 the padding looks right and the content is noise.
            _ => "the passphrase does not open it",
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
