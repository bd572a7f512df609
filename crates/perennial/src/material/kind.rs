//! What bytes are by their shape, so that a file in another format is named with its remedy.

/// The contents that operators put where a certificate or key belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Certificate,
    Key,
    EncryptedKey,
    Request,
    RevocationList,
    PublicKey,
    Pkcs7,
    Pkcs12,
    JavaKeyStore,
    OpenSsh,
    Putty,
}

impl Kind {
    /// Judges a DER sequence by the tags of its first elements.
    pub(super) fn of_der(der: &[u8]) -> Option<Self> {
        let (SEQUENCE, content, []) = element(der)? else {
            return None;
        };
        let outer = tags(content);
        let (_, first, rest) = element(content)?;
        Some(match *outer.as_slice() {
            // RFC 5652, 3: ContentInfo.
            [OID, EXPLICIT] if first.starts_with(PKCS7) => Self::Pkcs7,
            // RFC 7292, 4: PFX, whose second element is a ContentInfo.
            [INTEGER, SEQUENCE, ..] if is_content_info(rest) => Self::Pkcs12,
            // RFC 5208, 5 and RFC 5958, 2.
            [INTEGER, SEQUENCE, OCTET_STRING, ..] => Self::Key,
            // RFC 8017, A.1.2, and A.1.1 of the public key alone; RFC 5915, 3.
            [INTEGER, INTEGER, INTEGER, _, ..] | [INTEGER, OCTET_STRING, ..] => Self::Key,
            [INTEGER, INTEGER] | [SEQUENCE, BIT_STRING] => Self::PublicKey,
            [SEQUENCE, OCTET_STRING] => Self::EncryptedKey,
            [SEQUENCE, SEQUENCE, BIT_STRING] => match *tags(first).as_slice() {
                // RFC 2986, 4.1.
                [INTEGER, SEQUENCE, SEQUENCE, EXPLICIT] => Self::Request,
                // RFC 5280, 5.1: no serial number, and dates after the issuer.
                [INTEGER, SEQUENCE, SEQUENCE, UTC_TIME | TIME, ..]
                | [SEQUENCE, SEQUENCE, UTC_TIME | TIME, ..] => Self::RevocationList,
                // RFC 5280, 4.1, and without a version.
                [EXPLICIT, INTEGER, SEQUENCE, SEQUENCE, ..]
                | [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, ..] => Self::Certificate,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Judges bytes that are neither PEM nor DER by how they begin.
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        const BEGINS: [(&[u8], Kind); 8] = [
            (&[0xfe, 0xed, 0xfe, 0xed], Kind::JavaKeyStore),
            (&[0xce, 0xce, 0xce, 0xce], Kind::JavaKeyStore),
            (b"PuTTY-User-Key-File", Kind::Putty),
            (b"openssh-key-v1", Kind::OpenSsh),
            (b"ssh-rsa ", Kind::OpenSsh),
            (b"ssh-ed25519 ", Kind::OpenSsh),
            (b"ecdsa-sha2-", Kind::OpenSsh),
            (b"---- BEGIN SSH2", Kind::OpenSsh),
        ];
        let begins = BEGINS.iter().find(|(begin, _)| bytes.starts_with(begin));
        begins.map(|&(_, kind)| kind)
    }

    /// What it is, and the remedy where it is not obvious.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Key => "a private key",
            Self::EncryptedKey => "an encrypted private key",
            Self::Request => "a certificate request; expected what the CA issued for it",
            Self::RevocationList => "a revocation list",
            Self::PublicKey => "a public key",
            Self::Pkcs7 => {
                "PKCS#7; convert it with `openssl pkcs7 -print_certs -in OLD -out NEW.pem` \
                 (-inform DER if OLD is binary)"
            }
            Self::Pkcs12 if cfg!(feature = "pkcs12") => "PKCS#12",
            Self::Pkcs12 => {
                "PKCS#12; enable the feature `pkcs12`, or convert it with \
                 `openssl pkcs12 -in OLD -noenc -out NEW.pem`"
            }
            Self::JavaKeyStore => {
                "a Java key store; convert it with `keytool -importkeystore -srckeystore OLD \
                 -destkeystore NEW.p12 -deststoretype PKCS12`"
            }
            Self::OpenSsh => {
                "an OpenSSH key; convert a copy of it with `ssh-keygen -p -m PKCS8 -f COPY`"
            }
            Self::Putty => "a PuTTY key; expected a key in PEM or DER",
        }
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
const EXPLICIT: u8 = 0xa0;

/// 1.2.840.113549.1.7, the prefix of PKCS#7's content types.
const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];

fn is_content_info(der: &[u8]) -> bool {
    let inner = element(der).and_then(|(_, content, _)| element(content));
    inner.is_some_and(|(tag, oid, _)| tag == OID && oid.starts_with(PKCS7))
}

/// The tags of the first few elements.
fn tags(mut der: &[u8]) -> Vec<u8> {
    let mut tags = Vec::new();
    while let Some((tag, _, rest)) = element(der)
        && tags.len() < 5
    {
        tags.push(tag);
        der = rest;
    }
    tags
}

/// One element in DER (X.690, 8.1): its tag, its content, and what follows it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = header(der)?;
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Tag, declared length, and all that follows the two.
fn header(der: &[u8]) -> Option<(u8, usize, &[u8])> {
    match der {
        [tag, short @ 0..=0x7f, rest @ ..] => Some((*tag, usize::from(*short), rest)),
        [tag, long @ 0x81..=0x84, rest @ ..] => {
            let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let add = |sum, &byte: &u8| sum << 8 | usize::from(byte);
            Some((*tag, length.iter().fold(0, add), rest))
        }
        _ => None,
    }
}

/// Whether these bytes are exactly one DER sequence, to judge by its length.
pub(super) fn is_der(bytes: &[u8]) -> bool {
    matches!(element(bytes), Some((SEQUENCE, _, [])))
}

/// Whether these bytes begin a DER sequence of DER sequences or integers, but end too early.
pub(super) fn is_cut_off_der(bytes: &[u8]) -> bool {
    let Some((SEQUENCE, length, rest)) = header(bytes) else {
        return false;
    };
    rest.len() < length && matches!(rest, [SEQUENCE | INTEGER, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shorter_or_longer_than_it_declares_is_not_der() {
        let whole = [SEQUENCE, 3, INTEGER, 1, 0];
        assert!(is_der(&whole) && !is_cut_off_der(&whole));
        assert!(!is_der(&whole[..4]) && is_cut_off_der(&whole[..4]));
        assert!(!is_der(&[SEQUENCE, 2, INTEGER, 1, 0]));
        assert!(!is_der(&[SEQUENCE, 0x85, 0, 0, 0, 0, 1, 0]));
    }
}
