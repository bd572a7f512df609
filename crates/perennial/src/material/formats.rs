//! Reads certificates and keys in PEM, DER, or DER as base64.

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

use super::error::{MaterialError, part};
use super::pem::{self, Block, Label};

/// One or more certificates in PEM, in their order, or one in DER.
pub(crate) fn certificates(
    part: &'static str,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    if pem::is_pem(bytes) {
        return pem_certificates(part, bytes);
    }
    let der = der(part, bytes)?;
    Ok(vec![CertificateDer::from(der.to_vec())])
}

pub(crate) fn pem_certificates(
    part: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let blocks = pem::blocks(part, text)?;
    let mut found = Vec::new();
    for block in blocks.iter().filter(|b| b.label == Label::Certificate) {
        found.push(CertificateDer::from(block.decode()?.to_vec()));
    }
    if found.is_empty() {
        return Err(nothing_of(part, &blocks));
    }
    Ok(found)
}

/// The one private key in PEM or DER: PKCS#1, SEC1, PKCS#8, or encrypted PKCS#8.
pub(crate) fn private_key(
    bytes: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    if pem::is_pem(bytes) {
        return pem_private_key(bytes, passphrase);
    }
    let der = der(part::KEY, bytes)?;
    if let Ok(key) = PrivateKeyDer::try_from(der.as_slice()) {
        return Ok(key.clone_key());
    }
    if is_encrypted_pkcs8(&der) {
        return decrypt(&der, passphrase);
    }
    Err(MaterialError::Encoding {
        part: part::KEY,
        problem: "the DER is not a private key",
    })
}

pub(crate) fn pem_private_key(
    text: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let blocks = pem::blocks(part::KEY, text)?;
    let mut keys = blocks.iter().filter(|block| block.label.is_key());
    let Some(block) = keys.next() else {
        return Err(nothing_of(part::KEY, &blocks));
    };
    if let Some(second) = keys.next() {
        return Err(MaterialError::Pem {
            part: part::KEY,
            line: second.line,
            problem: "a second private key; expected one",
        });
    }
    if block.label == Label::EncryptedByHeader {
        return Err(MaterialError::Encrypted {
            problem: "OpenSSL's legacy format is not supported; convert the key with `openssl pkcs8 -topk8`",
        });
    }
    let der = block.decode()?;
    let key: PrivateKeyDer<'_> = match block.label {
        Label::EncryptedPkcs8 => return decrypt(&der, passphrase),
        Label::Pkcs1 => PrivatePkcs1KeyDer::from(der.as_slice()).into(),
        Label::Sec1 => PrivateSec1KeyDer::from(der.as_slice()).into(),
        _ => PrivatePkcs8KeyDer::from(der.as_slice()).into(),
    };
    Ok(key.clone_key())
}

fn decrypt(der: &[u8], passphrase: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, MaterialError> {
    #[cfg(not(feature = "encrypted-keys"))]
    let _ = der;
    let problem = match passphrase {
        #[cfg(feature = "encrypted-keys")]
        Some(passphrase) => return super::encrypted::decrypt(der, passphrase),
        _ if cfg!(feature = "encrypted-keys") => "give the source the passphrase",
        _ => "enable the feature `encrypted-keys` and give the source the passphrase",
    };
    Err(MaterialError::Encrypted { problem })
}

/// DER as it is, or decoded from base64.
fn der(part: &'static str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
    if is_der(bytes) {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    let problem = match bytes.trim_ascii() {
        [] => return Err(MaterialError::Missing { part }),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the text is UTF-16; save it as UTF-8",
        [0x30, 0x81..=0x84, ..] => "it begins like DER but has another length than it declares",
        _ => match base64_der(bytes) {
            Some(der) => return Ok(der),
            None => "no BEGIN line found",
        },
    };
    Err(MaterialError::Encoding { part, problem })
}

/// Whether these bytes are DER as base64, without BEGIN and END lines.
pub(crate) fn is_base64_der(bytes: &[u8]) -> bool {
    base64_der(bytes).is_some()
}

fn base64_der(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut dense = Zeroizing::new(Vec::with_capacity(bytes.len()));
    dense.extend(bytes.iter().filter(|byte| !byte.is_ascii_whitespace()));
    pem::decode(&dense).filter(|der| is_der(der))
}

/// Whether these bytes are exactly one DER sequence (X.690, 8.1.3), to judge by its length.
fn is_der(bytes: &[u8]) -> bool {
    let (length, content) = match bytes {
        [0x30, short @ 0..=0x7f, content @ ..] => (usize::from(*short), content),
        [0x30, long @ 0x81..=0x84, rest @ ..] => {
            let Some((length, content)) = rest.split_at_checked(usize::from(long & 0x7f)) else {
                return false;
            };
            let add = |sum, &byte: &u8| sum << 8 | usize::from(byte);
            (length.iter().fold(0, add), content)
        }
        _ => return false,
    };
    content.len() == length
}

/// `SEQUENCE { SEQUENCE { OID …` with the OIDs of PKCS#5: 1.2.840.113549.1.5.
fn is_encrypted_pkcs8(der: &[u8]) -> bool {
    const PKCS5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05];
    let windows = der.windows(PKCS5.len());
    windows.take(26).any(|window| window == PKCS5)
}

fn nothing_of(part: &'static str, blocks: &[Block<'_>]) -> MaterialError {
    match blocks.first() {
        None => MaterialError::Missing { part },
        Some(block) => MaterialError::OtherKind {
            part,
            line: block.line,
            found: block.label.description(),
        },
    }
}
