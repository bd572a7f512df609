//! Certificates and keys in whatever encoding they come: PEM, DER, or DER in base64.

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

use super::error::{MaterialError, Part};
use super::pem::{self, Block, Fault, Label};

/// Opens an encrypted PKCS#8 key.
type Open<'a> = &'a dyn Fn(&[u8]) -> Result<PrivateKeyDer<'static>, MaterialError>;

/// One or more certificates of PEM, in their order; or one of DER.
pub(crate) fn certificates(
    part: Part,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    if pem::is_pem(bytes) {
        return pem_certificates(part, bytes);
    }
    let der = der(part, bytes)?;
    Ok(vec![CertificateDer::from(der.to_vec())])
}

pub(crate) fn pem_certificates(
    part: Part,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let blocks = pem::blocks(text).map_err(|fault| faulty(part, fault))?;
    let certificates = blocks.iter().filter(|b| b.label == Label::Certificate);
    let found: Vec<_> = certificates
        .map(|block| {
            let der = block.decode().map_err(|fault| faulty(part, fault))?;
            Ok(CertificateDer::from(der.to_vec()))
        })
        .collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(nothing_of(part, &blocks));
    }
    Ok(found)
}

/// The one private key of PEM or DER: PKCS#1, SEC1, PKCS#8, or what `open` can open.
pub(crate) fn private_key(
    bytes: &[u8],
    open: Open<'_>,
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    if pem::is_pem(bytes) {
        return pem_private_key(bytes, open);
    }
    let der = der(Part::Key, bytes)?;
    if let Ok(key) = PrivateKeyDer::try_from(der.as_slice()) {
        return Ok(key.clone_key());
    }
    if is_encrypted_pkcs8(&der) {
        return open(&der);
    }
    Err(MaterialError::Encoding {
        part: Part::Key,
        problem: "it is DER, but of something else",
    })
}

pub(crate) fn pem_private_key(
    text: &[u8],
    open: Open<'_>,
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let blocks = pem::blocks(text).map_err(|fault| faulty(Part::Key, fault))?;
    let mut keys = blocks.iter().filter(|block| block.label.is_key());
    let Some(block) = keys.next() else {
        return Err(nothing_of(Part::Key, &blocks));
    };
    if let Some(second) = keys.next() {
        return Err(MaterialError::Pem {
            part: Part::Key,
            line: second.line,
            problem: "a second private key; there must be one",
        });
    }
    let der = block.decode();
    let der = |kind: fn(&[u8]) -> PrivateKeyDer<'_>| match &der {
        Ok(der) => Ok(kind(der).clone_key()),
        Err(fault) => Err(faulty(Part::Key, *fault)),
    };
    match block.label {
        Label::Pkcs8 => der(|der| PrivatePkcs8KeyDer::from(der).into()),
        Label::Pkcs1 => der(|der| PrivatePkcs1KeyDer::from(der).into()),
        Label::Sec1 => der(|der| PrivateSec1KeyDer::from(der).into()),
        Label::EncryptedPkcs8 => {
            let der = block.decode().map_err(|fault| faulty(Part::Key, fault))?;
            open(&der)
        }
        Label::EncryptedByHeader | Label::Certificate | Label::Other(_) => {
            Err(MaterialError::Encrypted {
                problem: "its old format is not read; convert it with `openssl pkcs8 -topk8`",
            })
        }
    }
}

/// For callers without a passphrase.
pub(crate) fn closed(_der: &[u8]) -> Result<PrivateKeyDer<'static>, MaterialError> {
    Err(MaterialError::Encrypted {
        problem: if cfg!(feature = "encrypted-keys") {
            "give the source its passphrase"
        } else {
            "enable the feature `encrypted-keys`, and give the source its passphrase"
        },
    })
}

/// DER as it is, or out of base64.
fn der(part: Part, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
    if is_der(bytes) {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    let problem = match bytes.trim_ascii() {
        [] => return Err(MaterialError::Missing { part }),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it is a text in UTF-16; save it as UTF-8",
        [0x30, 0x81..=0x84, ..] => "it begins like DER, but is not as long as it says",
        _ => match base64_der(bytes) {
            Some(der) => return Ok(der),
            None => "there is no BEGIN line in it",
        },
    };
    Err(MaterialError::Encoding { part, problem })
}

/// Whether these bytes are DER in base64 without armour.
pub(crate) fn is_base64_der(bytes: &[u8]) -> bool {
    base64_der(bytes).is_some()
}

fn base64_der(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut dense = Zeroizing::new(Vec::with_capacity(bytes.len()));
    dense.extend(bytes.iter().filter(|byte| !byte.is_ascii_whitespace()));
    pem::decode(&dense).filter(|der| is_der(der))
}

/// Whether these bytes are exactly one DER sequence (X.690, 8.1.3): its length must fit.
fn is_der(bytes: &[u8]) -> bool {
    let [0x30, first, rest @ ..] = bytes else {
        return false;
    };
    let (length, content) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let Some((length, content)) = rest.split_at_checked(usize::from(long & 0x7f)) else {
                return false;
            };
            let length = length
                .iter()
                .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
            (length, content)
        }
        _ => return false,
    };
    content.len() == length
}

/// `SEQUENCE { SEQUENCE { OID …` with the OIDs of PKCS#5: 1.2.840.113549.1.5.
fn is_encrypted_pkcs8(der: &[u8]) -> bool {
    const PKCS5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05];
    der.iter()
        .take(24)
        .position(|&tag| tag == 0x06)
        .is_some_and(|oid| {
            der[oid + 1..]
                .get(1..)
                .is_some_and(|rest| rest.starts_with(PKCS5))
        })
}

fn nothing_of(part: Part, blocks: &[Block<'_>]) -> MaterialError {
    match blocks.first() {
        None => MaterialError::Missing { part },
        Some(block) => MaterialError::OtherKind {
            part,
            line: block.line,
            found: block.label.found(),
        },
    }
}

fn faulty(part: Part, fault: Fault) -> MaterialError {
    match fault {
        Fault::CutOff { line } => MaterialError::CutOff { part, line },
        Fault::Malformed { line, problem } => MaterialError::Pem {
            part,
            line,
            problem,
        },
    }
}
