//! Secrets within a reply, read into memory that is wiped.

use std::fmt;

use rustls_pki_types::PrivateKeyDer;
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// A secret string of a reply.
///
/// serde_json unescapes strings in a buffer that grows and is not wiped: a key's PEM has escaped
/// line ends. So the string is read as it stands in the reply, and unescaped here.
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_inner(self) -> Zeroizing<String> {
        self.0
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        // The error quotes nothing.
        let text = unescaped(raw).ok_or_else(|| D::Error::custom("not a string"))?;
        Ok(Self(text))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretText").finish_non_exhaustive()
    }
}

/// The text of a JSON string; `None` if it is another value, or holds an escaped surrogate.
fn unescaped(raw: &str) -> Option<Zeroizing<String>> {
    let mut rest = raw.strip_prefix('"')?.strip_suffix('"')?;
    // Enough: an escaped character is longer than the character.
    let mut text = Zeroizing::new(String::with_capacity(rest.len()));
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let kind = escape.chars().next()?;
        rest = escape.get(kind.len_utf8()..)?;
        text.push(match kind {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let digits = rest.get(..4)?;
                rest = rest.get(4..)?;
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
            }
            other => other,
        });
    }
    text.push_str(rest);
    Some(text)
}

/// The first private key of a PEM text, of whatever kind its label says; `None` without any that is
/// not encrypted.
///
/// The reader of `pki_types` leaves the key in buffers that are not wiped.
pub(crate) fn private_key(pem: &str) -> Option<Zeroizing<PrivateKeyDer<'static>>> {
    let (_, block) = pem.split_once("PRIVATE KEY-----")?;
    let (body, _) = block.split_once("-----END")?;
    let mut base64 = Zeroizing::new(Vec::with_capacity(body.len()));
    base64.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    let length = <base64ct::Base64 as base64ct::Encoding>::decode(&*base64, &mut der);
    let length = length.ok()?.len();
    let key = PrivateKeyDer::try_from(der.get(..length)?).ok()?;
    Some(Zeroizing::new(key.clone_key()))
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    #[test]
    fn strings_are_unescaped_as_serde_json_does() {
        for text in [
            "",
            "plain",
            "a\nb\r\t\u{8}\u{c}\"\\/",
            "<&> \u{2028} äö \u{1f}",
            "🦀",
        ] {
            let raw = serde_json::to_string(text).expect("a string");
            let read: SecretText = serde_json::from_str(&raw).expect("a string");
            assert_eq!(read.expose(), text);
        }
        let read: SecretText = serde_json::from_str(r#""\u003ca\/""#).expect("a string");
        assert_eq!(read.expose(), "<a/");
        for raw in ["7", "null", "[]", r#""\ud800""#, "{}"] {
            serde_json::from_str::<SecretText>(raw).expect_err("not a string that vault sends");
        }
    }

    #[test]
    fn private_key_is_read_by_its_content() {
        let pair = KeyPair::generate().expect("a key");
        let pem = pair.serialize_pem();
        let mislabelled = pem.replace("PRIVATE KEY", "RSA PRIVATE KEY");
        let before = format!("text\n{pem}\nand more");
        for text in [&pem, &mislabelled, &before, &pem.replace('\n', "\r\n")] {
            let key = private_key(text).expect("a key");
            assert_eq!(key.secret_der(), pair.serialized_der());
        }
        for text in [
            "",
            "PRIVATE KEY-----",
            &pem.replace("END", ""),
            &pem.replace('M', "!"),
        ] {
            assert!(private_key(text).is_none(), "{text}");
        }
    }
}
