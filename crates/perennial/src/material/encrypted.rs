//! Opens what a passphrase encrypts: keys in PKCS#8 (RFC 5958, 3) and the contents of PKCS#12.

use pkcs8::der::Decode;
use pkcs8::der::asn1::{AnyRef, ObjectIdentifier};
use pkcs8::pkcs5;
use pkcs8::pkcs5::pbes2::{self, Kdf};
use pkcs8::spki::AlgorithmIdentifierRef;
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::SecretKey;
use super::closed::{Closed, check_rounds};
use super::error::MaterialError;
use super::kind::{OID, SEQUENCE, element};

/// The most bytes that scrypt may fill; OpenSSL's own keys take 16 MiB.
const MOST_MEMORY: u64 = if cfg!(fuzzing) { 1 << 20 } else { 256 << 20 };

/// Decrypts a key. Takes time for each round, so it must not run on an async worker.
pub(super) fn decrypt(der: &[u8], passphrase: &[u8]) -> Result<SecretKey, MaterialError> {
    const CONVERT: &str = "`openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`";
    let refused = |closed: Closed| MaterialError::Encrypted {
        problem: closed.problem(CONVERT),
    };
    let opened = open_key(der, passphrase).map_err(refused)?;
    // With a wrong passphrase, one time in 256 the padding is right and the content noise.
    let key = PrivateKeyDer::try_from(opened.as_slice());
    let key = key.map_err(|_noise| refused(Closed::WrongPassphrase))?;
    Ok(Zeroizing::new(key.clone_key()))
}

/// The DER of the key in an `EncryptedPrivateKeyInfo`.
pub(super) fn open_key(der: &[u8], passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let parts = element(der).and_then(|(_, content, _)| {
        let (_, _, rest) = element(content)?;
        let (_, sealed, _) = element(rest)?;
        Some((&content[..content.len() - rest.len()], sealed))
    });
    let (algorithm, sealed) = parts.ok_or(Closed::Malformed)?;
    open(algorithm, sealed, passphrase)
}

/// Decrypts by an `AlgorithmIdentifier` in DER.
pub(super) fn open(
    algorithm: &[u8],
    sealed: &[u8],
    passphrase: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Closed> {
    // The parser's own errors may quote bytes.
    let malformed = |_quotes_bytes| Closed::Malformed;
    let algorithm = AlgorithmIdentifierRef::from_der(algorithm).map_err(malformed)?;
    let parameters = algorithm.parameters.ok_or(Closed::Malformed)?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let length = if algorithm.oid == pbes2::PBES2_OID {
        let parameters = pbes2::Parameters::try_from(parameters)
            .map_err(|_quotes_bytes| first_unsupported(parameters))?;
        check_cost(&parameters.kdf)?;
        let opened = parameters.decrypt_in_place(passphrase, &mut buffer);
        let opened = opened.map_err(|error| match error {
            pkcs5::Error::UnsupportedAlgorithm { oid } => Closed::Unsupported(name(oid)),
            _ => Closed::WrongPassphrase,
        });
        opened?.len()
    } else {
        #[cfg(feature = "pkcs12")]
        let length = super::pbe::open(algorithm.oid, parameters, passphrase, &mut buffer)?;
        #[cfg(not(feature = "pkcs12"))]
        let length = None;
        length.ok_or_else(|| Closed::Unsupported(name(algorithm.oid)))?
    };
    buffer.truncate(length);
    Ok(buffer)
}

fn check_cost(kdf: &Kdf) -> Result<(), Closed> {
    match kdf {
        Kdf::Pbkdf2(pbkdf2) => check_rounds(pbkdf2.iteration_count),
        Kdf::Scrypt(scrypt) => {
            // RFC 7914, 2: 128 · r · N bytes, filled p times.
            let memory = u64::from(scrypt.block_size)
                .saturating_mul(128)
                .saturating_mul(scrypt.cost_parameter)
                .saturating_mul(scrypt.parallelization.into());
            if memory > MOST_MEMORY {
                return Err(Closed::TooCostly(format!("scrypt over {memory} bytes")));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Names the algorithm by which the parser refused these parameters of PBES2.
fn first_unsupported(parameters: AnyRef<'_>) -> Closed {
    // Steps into each sequence without recursion: a file may nest them until the stack ends.
    let mut der = parameters.value();
    while let Some((tag, content, rest)) = element(der) {
        if tag == OID
            && let Ok(oid) = ObjectIdentifier::from_bytes(content)
            && !SUPPORTED.contains(&oid)
        {
            return Closed::Unsupported(name(oid));
        }
        der = match tag {
            SEQUENCE => &der[der.len() - content.len() - rest.len()..],
            _ => rest,
        };
    }
    Closed::Malformed
}

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// What PBES2 may be made of.
const SUPPORTED: [ObjectIdentifier; 13] = [
    pbes2::PBKDF2_OID,
    pbes2::SCRYPT_OID,
    pbes2::HMAC_WITH_SHA1_OID,
    oid("1.2.840.113549.2.8"),
    pbes2::HMAC_WITH_SHA256_OID,
    oid("1.2.840.113549.2.10"),
    oid("1.2.840.113549.2.11"),
    pbes2::AES_128_CBC_OID,
    pbes2::AES_192_CBC_OID,
    pbes2::AES_256_CBC_OID,
    pbes2::AES_128_GCM_OID,
    pbes2::AES_256_GCM_OID,
    pbes2::DES_EDE3_CBC_OID,
];

/// An algorithm by OpenSSL's name, if it is one that keys are found in, and its OID.
pub(super) fn name(oid: ObjectIdentifier) -> String {
    let text = oid.to_string();
    let names = [
        ("1.2.840.113549.1.5.1", "PBE-MD2-DES"),
        ("1.2.840.113549.1.5.3", "PBE-MD5-DES"),
        ("1.2.840.113549.1.5.4", "PBE-MD2-RC2-64"),
        ("1.2.840.113549.1.5.6", "PBE-MD5-RC2-64"),
        ("1.2.840.113549.1.5.10", "PBE-SHA1-DES"),
        ("1.2.840.113549.1.5.11", "PBE-SHA1-RC2-64"),
        ("1.2.840.113549.1.5.14", "PBMAC1"),
        ("1.2.840.113549.1.12.1.1", "PBE-SHA1-RC4-128"),
        ("1.2.840.113549.1.12.1.2", "PBE-SHA1-RC4-40"),
        ("1.2.840.113549.1.12.1.3", "PBE-SHA1-3DES"),
        ("1.2.840.113549.1.12.1.4", "PBE-SHA1-2DES"),
        ("1.2.840.113549.1.12.1.5", "PBE-SHA1-RC2-128"),
        ("1.2.840.113549.1.12.1.6", "PBE-SHA1-RC2-40"),
        ("1.2.840.113549.3.2", "RC2-CBC"),
        ("1.3.14.3.2.7", "DES-CBC"),
        ("1.2.410.200046.1.1.2", "ARIA-128-CBC"),
        ("1.2.410.200046.1.1.7", "ARIA-192-CBC"),
        ("1.2.410.200046.1.1.12", "ARIA-256-CBC"),
        ("1.2.392.200011.61.1.1.1.2", "CAMELLIA-128-CBC"),
        ("1.2.392.200011.61.1.1.1.3", "CAMELLIA-192-CBC"),
        ("1.2.392.200011.61.1.1.1.4", "CAMELLIA-256-CBC"),
        ("1.2.410.200004.1.4", "SEED-CBC"),
        ("1.2.156.10197.1.104.2", "SM4-CBC"),
    ];
    match names.iter().find(|(dotted, _)| *dotted == text) {
        Some((_, name)) => format!("{name} ({text})"),
        None => format!("the algorithm {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wraps the content in so many sequences.
    fn nested(content: &[u8], depth: usize) -> Vec<u8> {
        let mut backwards: Vec<u8> = content.iter().rev().copied().collect();
        for _ in 0..depth {
            let length = backwards.len() as u32;
            backwards.extend(length.to_le_bytes());
            let extra = match length {
                0..=0xff => 3,
                0x100..=0xffff => 2,
                0x1_0000..=0xff_ffff => 1,
                _ => 0,
            };
            backwards.truncate(backwards.len() - extra);
            if length > 0x7f {
                backwards.push(0x84 - extra as u8);
            }
            backwards.push(SEQUENCE);
        }
        backwards.reverse();
        backwards
    }

    #[test]
    fn parameters_of_any_depth_are_refused_by_what_is_in_them() {
        // ARIA-256-CBC.
        let aria = oid("1.2.410.200046.1.1.12");
        let bytes = aria.as_bytes();
        let aria_der = [&[6, bytes.len() as u8], bytes].concat();
        let pbes2 = pbes2::PBES2_OID;
        let bytes = pbes2.as_bytes();
        let pbes2_der = [&[6, bytes.len() as u8], bytes].concat();
        for depth in [1, 3, 500_000] {
            let parameters = nested(&aria_der, depth);
            let algorithm = nested(&[&pbes2_der[..], &parameters].concat(), 1);
            let refused = open(&algorithm, &[0; 16], b"open sesame").unwrap_err();
            assert_eq!(refused, Closed::Unsupported(name(aria)), "{depth}");
        }
    }
}
