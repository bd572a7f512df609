//! PKCS#12's own encryption by passphrase and key derivation (RFC 7292, appendices B and C).

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use hmac::digest::block_api::BlockSizeUser;
use pkcs8::der::asn1::{AnyRef, ObjectIdentifier};
use sha2::Digest;
use zeroize::Zeroizing;

use super::closed::{Closed, check_rounds};
use super::kind::element;

/// Decrypts `buffer` in place by PKCS#12's own schemes: RFC 7292, appendix C.
///
/// Returns the length of what was opened; `None` for any other scheme.
pub(super) fn open(
    scheme: ObjectIdentifier,
    parameters: AnyRef<'_>,
    passphrase: &[u8],
    buffer: &mut [u8],
) -> Result<Option<usize>, Closed> {
    let open: fn(&Scheme<'_>, &mut [u8]) -> Option<usize> = match scheme.to_string().as_str() {
        "1.2.840.113549.1.12.1.3" => |scheme, buffer| scheme.open::<des::TdesEde3>(24, buffer),
        "1.2.840.113549.1.12.1.4" => |scheme, buffer| scheme.open::<des::TdesEde2>(16, buffer),
        "1.2.840.113549.1.12.1.5" => |scheme, buffer| scheme.open::<rc2::Rc2>(16, buffer),
        "1.2.840.113549.1.12.1.6" => |scheme, buffer| scheme.open::<rc2::Rc2>(5, buffer),
        _ => return Ok(None),
    };
    let mut parameters = Elements(parameters.value());
    let salt = parameters.next(OCTET_STRING)?;
    let rounds = number(parameters.next(INTEGER)?)?;
    check_rounds(rounds)?;
    let password = utf16(passphrase)?;
    let scheme = Scheme {
        password: &password,
        salt,
        rounds,
    };
    open(&scheme, buffer)
        .map(Some)
        .ok_or(Closed::WrongPassphrase)
}

struct Scheme<'a> {
    password: &'a [u8],
    salt: &'a [u8],
    rounds: u32,
}

impl Scheme<'_> {
    fn open<C: BlockCipherDecrypt + KeyInit>(
        &self,
        key: usize,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let derive = |purpose, length| {
            derive::<sha1::Sha1>(self.password, self.salt, purpose, self.rounds, length)
        };
        let (key, iv) = (derive(Purpose::Key, key), derive(Purpose::Iv, 8));
        let cipher = cbc::Decryptor::<C>::new_from_slices(&key, &iv).ok()?;
        Some(cipher.decrypt_padded::<Pkcs7>(buffer).ok()?.len())
    }
}

/// The "diversifier" of RFC 7292, B.3.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// Key derivation of RFC 7292, B.2; the names are those of that page.
pub(super) fn derive<D: Digest + BlockSizeUser>(
    password: &[u8],
    salt: &[u8],
    purpose: Purpose,
    rounds: u32,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let v = D::block_size();
    let filled = |bytes: &[u8]| bytes.len().div_ceil(v) * v;
    let mut i = Zeroizing::new(Vec::with_capacity(filled(salt) + filled(password)));
    i.extend(salt.iter().cycle().take(filled(salt)));
    i.extend(password.iter().cycle().take(filled(password)));
    let mut out = Zeroizing::new(Vec::with_capacity(length + <D as Digest>::output_size()));
    while out.len() < length {
        let first = D::new().chain_update(vec![purpose as u8; v]);
        let mut a = first.chain_update(&*i).finalize();
        for _ in 1..rounds {
            a = D::digest(&a);
        }
        out.extend(a.iter());
        for block in i.chunks_mut(v) {
            // I_j = (I_j + B + 1) mod 2^v, where B repeats A.
            let b: Vec<_> = a.iter().cycle().take(v).collect();
            let mut carry = 1;
            for (byte, b) in block.iter_mut().zip(b).rev() {
                carry += u16::from(*byte) + u16::from(*b);
                [_, *byte] = carry.to_be_bytes();
                carry >>= 8;
            }
        }
    }
    out.truncate(length);
    out
}

/// Big-endian, with two zero bytes at the end: RFC 7292, B.1.
pub(super) fn utf16(passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let text = std::str::from_utf8(passphrase);
    let text = text.map_err(|_quotes_bytes| {
        Closed::Unsupported("a passphrase that is not UTF-8".to_owned())
    })?;
    let mut out = Zeroizing::new(Vec::with_capacity(2 * text.len() + 2));
    out.extend(text.encode_utf16().chain([0]).flat_map(u16::to_be_bytes));
    Ok(out)
}

pub(super) fn number(bytes: &[u8]) -> Result<u32, Closed> {
    match bytes {
        [] | [0x80..=0xff, ..] => Err(Closed::Malformed),
        _ if bytes.len() > 5 => Ok(u32::MAX),
        _ => {
            let value = bytes
                .iter()
                .fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
            Ok(u32::try_from(value).unwrap_or(u32::MAX))
        }
    }
}

/// The elements of a sequence that have not been read yet.
pub(super) struct Elements<'a>(pub(super) &'a [u8]);

impl<'a> Elements<'a> {
    /// The content of the next element, which must have this tag.
    pub(super) fn next(&mut self, tag: u8) -> Result<&'a [u8], Closed> {
        match element(self.0) {
            Some((found, content, rest)) if found == tag => {
                self.0 = rest;
                Ok(content)
            }
            _ => Err(Closed::Malformed),
        }
    }

    pub(super) fn inside(&mut self, tag: u8) -> Result<Self, Closed> {
        self.next(tag).map(Elements)
    }

    /// The next element with its tag and length.
    pub(super) fn whole(&mut self, tag: u8) -> Result<&'a [u8], Closed> {
        let before = self.0;
        self.next(tag)?;
        Ok(&before[..before.len() - self.0.len()])
    }

    pub(super) fn oid(&mut self) -> Result<ObjectIdentifier, Closed> {
        let oid = ObjectIdentifier::from_bytes(self.next(OID)?);
        oid.map_err(|_malformed| Closed::Malformed)
    }
}

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
