//! Distinguished names, compared as RFC 5280, 7.1 says.

use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// A name for comparing, and as text for people to read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct DistinguishedName {
    folded: Vec<u8>,
    pub(super) text: String,
}

impl DistinguishedName {
    pub(super) fn new(name: &X509Name<'_>) -> Self {
        Self {
            folded: folded(name),
            text: name.to_string(),
        }
    }

    /// Equal for equal names.
    pub(super) fn folded(&self) -> &[u8] {
        &self.folded
    }

    /// Whether both are one name: the encodings of their strings, case and white space may differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.folded == other.folded
    }
}

/// A name in DER in the form that is compared; `None` if it is not one.
pub(crate) fn folded_der(name: &[u8]) -> Option<Vec<u8>> {
    let (rest, name) = X509Name::from_der(name).ok()?;
    rest.is_empty().then(|| folded(&name))
}

/// Equal for equal names and for no others: each part has its length before it.
///
/// Without the rarer rules of stringprep (RFC 4518), as in OpenSSL.
fn folded(name: &X509Name<'_>) -> Vec<u8> {
    let mut folded = Vec::new();
    for set in name.iter_rdn() {
        let mut parts: Vec<Vec<u8>> = set
            .iter()
            .map(|part| {
                let mut bytes = Vec::new();
                push(&mut bytes, part.attr_type().as_bytes());
                match string(part.attr_value()) {
                    Some(text) => push(&mut bytes, fold(&text).as_bytes()),
                    None => {
                        bytes.extend(part.attr_value().header.tag().0.to_be_bytes());
                        push(&mut bytes, part.attr_value().data);
                    }
                }
                bytes
            })
            .collect();
        // A SET has no order.
        parts.sort();
        push(&mut folded, &parts.concat());
    }
    folded
}

fn push(to: &mut Vec<u8>, part: &[u8]) {
    to.extend((part.len() as u64).to_be_bytes());
    to.extend(part);
}

fn fold(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// The text of a string of any of the kinds that names have.
fn string(value: &Any<'_>) -> Option<String> {
    let units = || value.data.chunks_exact(2).map(|unit| [unit[0], unit[1]]);
    match value.header.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            String::from_utf8(value.data.to_vec()).ok()
        }
        // In practice Latin 1.
        Tag::T61String => Some(value.data.iter().map(|&byte| char::from(byte)).collect()),
        Tag::BmpString => {
            let units: Vec<u16> = units().map(u16::from_be_bytes).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}
