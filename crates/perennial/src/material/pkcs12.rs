//! Reads certificates and a key from PKCS#12 (RFC 7292), over RustCrypto's ciphers and digests.
//!
//! Neither RustCrypto's own crate for it (a pre-release) nor those built on it wipe the keys that
//! they decrypt. Here each decrypted byte lies in one buffer, which is wiped.

use hmac::digest::block_api::BlockSizeUser;
use hmac::{KeyInit, Mac, SimpleHmac};
use pkcs8::der::asn1::ObjectIdentifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::Digest;
use zeroize::Zeroizing;

use super::SecretKey;
use super::closed::{Closed, check_rounds};
use super::encrypted;
use super::error::{MaterialError, part};
use super::pbe::{Elements, INTEGER, OCTET_STRING, Purpose, derive, number, utf16};

/// More contents, each with its own key derivation, than any tool writes.
const MOST_CONTENTS: usize = 16;

/// The certificates, first the one that is said to belong to the key.
pub(super) fn certificates(
    part: &'static str,
    der: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let refused = |problem| MaterialError::Pkcs12 { part, problem };
    let mut store = read(der, passphrase).map_err(|closed| refused(problem(closed, passphrase)))?;
    if store.certificates.is_empty() {
        return Err(refused("it holds no certificate".to_owned()));
    }
    let ids: Vec<_> = store.keys.iter().filter_map(|key| key.id.clone()).collect();
    let is_other = |bag: &Bag| !bag.id.as_ref().is_some_and(|id| ids.contains(id));
    store.certificates.sort_by_key(is_other);
    let certificates = store.certificates.into_iter();
    Ok(certificates
        .map(|bag| CertificateDer::from(bag.content.to_vec()))
        .collect())
}

/// The one private key.
pub(super) fn key(der: &[u8], passphrase: Option<&[u8]>) -> Result<SecretKey, MaterialError> {
    let part = part::KEY;
    let refused = |problem| MaterialError::Pkcs12 { part, problem };
    let closed = |closed| refused(problem(closed, passphrase));
    let store = read(der, passphrase).map_err(closed)?;
    let key = match store.keys.as_slice() {
        [] => return Err(refused("it holds no private key".to_owned())),
        [key] => key,
        keys => {
            let problem = format!("it holds {} private keys; expected one", keys.len());
            return Err(refused(problem));
        }
    };
    let opened;
    let content = if key.is_encrypted {
        opened = encrypted::open_key(&key.content, store.passphrase).map_err(closed)?;
        &opened
    } else {
        &key.content
    };
    let found = PrivateKeyDer::try_from(content.as_slice());
    let found = found.map_err(|_other| refused("its key is not in PKCS#8".to_owned()))?;
    Ok(Zeroizing::new(found.clone_key()))
}

fn problem(closed: Closed, passphrase: Option<&[u8]>) -> String {
    match closed {
        Closed::WrongPassphrase if passphrase.is_none() => {
            "it is encrypted: give the source the passphrase".to_owned()
        }
        closed => closed.problem("`openssl pkcs12 -in OLD -noenc -out NEW.pem`"),
    }
}

struct Store<'a> {
    passphrase: &'a [u8],
    certificates: Vec<Bag>,
    keys: Vec<Bag>,
}

struct Bag {
    content: Zeroizing<Vec<u8>>,
    /// Joins a key and its certificate.
    id: Option<Vec<u8>>,
    is_encrypted: bool,
}

fn read<'a>(der: &[u8], passphrase: Option<&'a [u8]>) -> Result<Store<'a>, Closed> {
    let mut store = Store {
        passphrase: passphrase.unwrap_or_default(),
        certificates: Vec::new(),
        keys: Vec::new(),
    };
    let mut pfx = Elements(der).inside(SEQUENCE)?;
    let _version = pfx.next(INTEGER)?;
    let mut info = pfx.inside(SEQUENCE)?;
    if info.oid()? != DATA {
        return Err(Closed::Unsupported(
            "a signature instead of a MAC".to_owned(),
        ));
    }
    let safe = info.inside(EXPLICIT)?.next(OCTET_STRING)?;
    if !pfx.0.is_empty() {
        check_mac(pfx.inside(SEQUENCE)?, safe, store.passphrase)?;
    }
    let mut contents = Elements(safe).inside(SEQUENCE)?;
    for _ in 0..MOST_CONTENTS {
        if contents.0.is_empty() {
            return Ok(store);
        }
        let mut info = contents.inside(SEQUENCE)?;
        let kind = info.oid()?;
        let mut content = info.inside(EXPLICIT)?;
        if kind == DATA {
            store.read_bags(content.next(OCTET_STRING)?)?;
        } else if kind == ENCRYPTED_DATA {
            let mut data = content.inside(SEQUENCE)?;
            let _version = data.next(INTEGER)?;
            let mut info = data.inside(SEQUENCE)?;
            let _kind = info.oid()?;
            let algorithm = info.whole(SEQUENCE)?;
            let sealed = info.next(IMPLICIT)?;
            let opened = encrypted::open(algorithm, sealed, store.passphrase)?;
            store.read_bags(&opened)?;
        } else {
            let what = format!("a content of type {kind}");
            return Err(Closed::Unsupported(what));
        }
    }
    Err(Closed::TooCostly(format!(
        "more than {MOST_CONTENTS} contents"
    )))
}

impl Store<'_> {
    /// `SafeContents`: RFC 7292, 4.2.
    fn read_bags(&mut self, der: &[u8]) -> Result<(), Closed> {
        let mut bags = Elements(der).inside(SEQUENCE)?;
        while !bags.0.is_empty() {
            let mut bag = bags.inside(SEQUENCE)?;
            let kind = bag.oid()?;
            let mut value = bag.inside(EXPLICIT)?;
            let id = if bag.0.is_empty() {
                None
            } else {
                local_key_id(bag.inside(SET)?)?
            };
            let keep = |content: &[u8], is_encrypted| Bag {
                content: Zeroizing::new(content.to_vec()),
                id: id.clone(),
                is_encrypted,
            };
            if kind == KEY_BAG {
                self.keys.push(keep(value.whole(SEQUENCE)?, false));
            } else if kind == SHROUDED_KEY_BAG {
                self.keys.push(keep(value.whole(SEQUENCE)?, true));
            } else if kind == CERTIFICATE_BAG {
                let mut certificate = value.inside(SEQUENCE)?;
                if certificate.oid()? == X509 {
                    let der = certificate.inside(EXPLICIT)?.next(OCTET_STRING)?;
                    self.certificates.push(keep(der, false));
                }
            }
            // Revocation lists and secrets of other programs are ignored.
        }
        Ok(())
    }
}

fn local_key_id(mut attributes: Elements<'_>) -> Result<Option<Vec<u8>>, Closed> {
    while !attributes.0.is_empty() {
        let mut attribute = attributes.inside(SEQUENCE)?;
        if attribute.oid()? == LOCAL_KEY_ID {
            let id = attribute.inside(SET)?.next(OCTET_STRING)?;
            return Ok(Some(id.to_vec()));
        }
    }
    Ok(None)
}

/// `MacData`: RFC 7292, 4. It also shows whether the passphrase is right.
fn check_mac(mut mac: Elements<'_>, data: &[u8], passphrase: &[u8]) -> Result<(), Closed> {
    let mut info = mac.inside(SEQUENCE)?;
    let digest = info.inside(SEQUENCE)?.oid()?;
    let expected = info.next(OCTET_STRING)?;
    let salt = mac.next(OCTET_STRING)?;
    let rounds = match mac.0 {
        [] => 1,
        _ => number(mac.next(INTEGER)?)?,
    };
    check_rounds(rounds)?;
    let password = utf16(passphrase)?;
    let is_right = match digest.to_string().as_str() {
        "1.3.14.3.2.26" => has_mac::<sha1::Sha1>,
        "2.16.840.1.101.3.4.2.4" => has_mac::<sha2::Sha224>,
        "2.16.840.1.101.3.4.2.1" => has_mac::<sha2::Sha256>,
        "2.16.840.1.101.3.4.2.2" => has_mac::<sha2::Sha384>,
        "2.16.840.1.101.3.4.2.3" => has_mac::<sha2::Sha512>,
        _ => return Err(Closed::Unsupported(encrypted::name(digest))),
    };
    if is_right(&password, salt, rounds, data, expected) {
        Ok(())
    } else {
        Err(Closed::WrongPassphrase)
    }
}

fn has_mac<D: Digest + BlockSizeUser>(
    password: &[u8],
    salt: &[u8],
    rounds: u32,
    data: &[u8],
    expected: &[u8],
) -> bool {
    let length = <D as Digest>::output_size();
    let key = derive::<D>(password, salt, Purpose::Mac, rounds, length);
    let Ok(mac) = SimpleHmac::<D>::new_from_slice(&key) else {
        return false;
    };
    mac.chain_update(data).verify_slice(expected).is_ok()
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT: u8 = 0xa0;
/// `[0] IMPLICIT OCTET STRING`.
const IMPLICIT: u8 = 0x80;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const DATA: ObjectIdentifier = oid("1.2.840.113549.1.7.1");
const ENCRYPTED_DATA: ObjectIdentifier = oid("1.2.840.113549.1.7.6");
const KEY_BAG: ObjectIdentifier = oid("1.2.840.113549.1.12.10.1.1");
const SHROUDED_KEY_BAG: ObjectIdentifier = oid("1.2.840.113549.1.12.10.1.2");
const CERTIFICATE_BAG: ObjectIdentifier = oid("1.2.840.113549.1.12.10.1.3");
const X509: ObjectIdentifier = oid("1.2.840.113549.1.9.22.1");
const LOCAL_KEY_ID: ObjectIdentifier = oid("1.2.840.113549.1.9.21");
