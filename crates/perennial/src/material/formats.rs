//! Reads certificates and keys in PEM, DER, or either of them as base64.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::SecretKey;
use super::error::{MaterialError, part};
use super::kind::{Kind, element, is_cut_off_der, is_der};
use super::pem::{self, Block, Label};

/// One or more certificates in PEM, in their order, one in DER, or those of PKCS#12.
pub(crate) fn certificates(
    part: &'static str,
    bytes: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    #[cfg(not(feature = "pkcs12"))]
    let _ = passphrase;
    let der = match content(part, bytes)? {
        Content::Pem(text) => return certificates_of(part, &text),
        Content::Der(der) => der,
    };
    match Kind::of_der(&der) {
        // The parser reports what is wrong with what has no known shape.
        Some(Kind::Certificate) | None => Ok(vec![CertificateDer::from(der.to_vec())]),
        #[cfg(feature = "pkcs12")]
        Some(Kind::Pkcs12) => super::pkcs12::certificates(part, &der, passphrase),
        Some(kind) => Err(other(part, kind)),
    }
}

pub(crate) fn pem_certificates(
    part: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    certificates_of(part, &pem::readable(text))
}

fn certificates_of(
    part: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let blocks = pem::blocks(part, text)?;
    let mut found = Vec::new();
    for block in &blocks {
        let der = match block.label {
            Label::Certificate | Label::Trusted | Label::Other(_) => block.decode(),
            // Certificates that were passed over in silence would be missed later.
            Label::Known(Kind::Pkcs7) => return Err(nothing_of(part, std::slice::from_ref(block))),
            _ => continue,
        };
        match (block.label, der) {
            (Label::Other(_), der) => {
                // Of a label that we do not know, the shape decides.
                let der = der
                    .ok()
                    .filter(|der| Kind::of_der(der) == Some(Kind::Certificate));
                found.extend(der.map(|der| CertificateDer::from(der.to_vec())));
            }
            (_, der) => found.push(certificate_of(block, &der?)?),
        }
    }
    if found.is_empty() {
        return Err(nothing_of(part, &blocks));
    }
    Ok(found)
}

fn certificate_of(block: &Block<'_>, der: &[u8]) -> Result<CertificateDer<'static>, MaterialError> {
    let der = match element(der) {
        Some((_, _, trust)) if block.label == Label::Trusted => &der[..der.len() - trust.len()],
        _ => der,
    };
    match Kind::of_der(der) {
        Some(Kind::Certificate) | None => Ok(CertificateDer::from(der.to_vec())),
        Some(kind) => Err(block.is_of_kind(kind)),
    }
}

/// The one private key in PEM or DER: PKCS#1, SEC1, PKCS#8, or encrypted PKCS#8.
pub(crate) fn private_key(
    bytes: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<SecretKey, MaterialError> {
    match content(part::KEY, bytes)? {
        Content::Pem(text) => private_key_of(&text, passphrase),
        Content::Der(der) => key_of(&der, passphrase, |kind| match kind {
            Some(kind) => other(part::KEY, kind),
            None => MaterialError::Encoding {
                part: part::KEY,
                problem: "the DER is not a private key",
            },
        }),
    }
}

pub(crate) fn pem_private_key(
    text: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<SecretKey, MaterialError> {
    private_key_of(&pem::readable(text), passphrase)
}

fn private_key_of(text: &[u8], passphrase: Option<&[u8]>) -> Result<SecretKey, MaterialError> {
    let blocks = pem::blocks(part::KEY, text)?;
    let mut keys = blocks.iter().filter(|block| block.label.is_key());
    let Some(block) = keys.next() else {
        return Err(nothing_of(part::KEY, &blocks));
    };
    if let Some(second) = keys.next() {
        return Err(second.malformed("a second private key; expected one"));
    }
    if block.label == Label::EncryptedByHeader {
        return Err(MaterialError::Encrypted {
            problem: "OpenSSL's legacy format (Proc-Type) is not supported; convert it with \
                      `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`"
                .to_owned(),
        });
    }
    key_of(&block.decode()?, passphrase, |kind| match kind {
        Some(kind) => block.is_of_kind(kind),
        None => block.malformed("the block that begins here is not a private key"),
    })
}

/// A key by its shape: tools write any form under any label.
fn key_of(
    der: &[u8],
    passphrase: Option<&[u8]>,
    not_a_key: impl FnOnce(Option<Kind>) -> MaterialError,
) -> Result<SecretKey, MaterialError> {
    match (PrivateKeyDer::try_from(der), Kind::of_der(der)) {
        (_, Some(Kind::EncryptedKey)) => decrypt(der, passphrase),
        #[cfg(feature = "pkcs12")]
        (_, Some(Kind::Pkcs12)) => super::pkcs12::key(der, passphrase),
        (Ok(key), _) => Ok(Zeroizing::new(key.clone_key())),
        (Err(_), kind) => Err(not_a_key(kind.filter(|kind| *kind != Kind::Key))),
    }
}

fn decrypt(der: &[u8], passphrase: Option<&[u8]>) -> Result<SecretKey, MaterialError> {
    #[cfg(not(feature = "encrypted-keys"))]
    let _ = der;
    let problem = match passphrase {
        #[cfg(feature = "encrypted-keys")]
        Some(passphrase) => return super::encrypted::decrypt(der, passphrase),
        _ if cfg!(feature = "encrypted-keys") => "give the source the passphrase",
        _ => "enable the feature `encrypted-keys` and give the source the passphrase",
    };
    let problem = problem.to_owned();
    Err(MaterialError::Encrypted { problem })
}

enum Content {
    /// As [`pem::readable`] leaves it.
    Pem(Zeroizing<Vec<u8>>),
    Der(Zeroizing<Vec<u8>>),
}

/// PEM or DER as it is, or decoded from base64.
fn content(part: &'static str, bytes: &[u8]) -> Result<Content, MaterialError> {
    if let Some(content) = plain(bytes) {
        return Ok(content);
    }
    let problem = match bytes.trim_ascii() {
        [] => return Err(MaterialError::Missing { part }),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'-', ..] | [b'-', 0, ..] => {
            "the text is UTF-16; save it as UTF-8"
        }
        text => {
            let decoded = base64(text);
            let inside = decoded.as_ref().map_or(text, |decoded| decoded);
            if let Some(kind) = Kind::of_bytes(text).or_else(|| Kind::of_bytes(inside)) {
                return Err(other(part, kind));
            }
            if is_cut_off_der(bytes) || is_cut_off_der(inside) {
                return Err(MaterialError::Truncated { part });
            }
            match decoded.and_then(|decoded| plain(&decoded)) {
                Some(content) => return Ok(content),
                None => "no BEGIN line found",
            }
        }
    };
    Err(MaterialError::Encoding { part, problem })
}

fn plain(bytes: &[u8]) -> Option<Content> {
    if is_der(bytes) {
        return Some(Content::Der(Zeroizing::new(bytes.to_vec())));
    }
    pem::is_pem(bytes).then(|| Content::Pem(pem::readable(bytes)))
}

/// Whether these bytes are PEM or DER, or either of them as base64; a path never is.
pub(crate) fn is_content(bytes: &[u8]) -> bool {
    let is_plain = |bytes: &[u8]| is_der(bytes) || pem::is_pem(bytes);
    is_plain(bytes) || base64(bytes).is_some_and(|decoded| is_plain(&decoded))
}

/// Decodes base64 without regard to white space, and to the quotes that some tools leave.
fn base64(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = pem::readable(bytes);
    let mut dense = Zeroizing::new(Vec::with_capacity(text.len()));
    dense.extend(text.iter().filter(|byte| !pem::is_around(byte)));
    pem::decode(&dense)
}

fn other(part: &'static str, kind: Kind) -> MaterialError {
    MaterialError::OtherContent {
        part,
        found: kind.description(),
    }
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
