//! What a request sent is struck from the texts that the server sends back; pure.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use base64ct::{Base64Unpadded, Encoding};
use zeroize::Zeroizing;

/// Stands for a secret in a text.
const STRUCK: &str = "[secret]";

/// A piece of a secret this long is struck too, as where a server quotes the first half; a shorter
/// secret only as a whole. Shorter pieces would be words that every text may hold.
pub(crate) const SHORTEST_PIECE: usize = 12;

/// The most of a text that is looked at, in bytes; its end is cut off.
const LONGEST_TEXT: usize = 8_192;

/// The secrets of one request: its token, and the secret values of its body.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<Vec<Zeroizing<String>>>);

impl Sent {
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
        let copies = secrets.map(|secret| Zeroizing::new(secret.to_owned()));
        Self(Arc::new(copies.collect()))
    }

    /// The text, without any secret: as it was sent, quoted by Go, escaped for JSON, for a URL or a
    /// form, or in base64.
    pub(crate) fn strike(&self, text: &str) -> String {
        let mut end = text.len().min(LONGEST_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        let mut hidden = vec![false; text.len()];
        for secret in self.0.iter() {
            hide(text.as_bytes(), secret.as_bytes(), &mut hidden);
            for form in forms(secret) {
                hide(text.as_bytes(), form.as_bytes(), &mut hidden);
            }
        }
        let mut kept = String::with_capacity(text.len());
        let mut was_hidden = false;
        for (at, c) in text.char_indices() {
            let is_hidden = hidden[at..at + c.len_utf8()].contains(&true);
            match (is_hidden, was_hidden) {
                (true, false) => kept.push_str(STRUCK),
                (true, true) => {}
                (false, _) => kept.push(c),
            }
            was_hidden = is_hidden;
        }
        kept
    }
}

/// Marks the bytes of `text` that are in a piece of `secret`.
fn hide(text: &[u8], secret: &[u8], hidden: &mut [bool]) {
    let length = secret.len().min(SHORTEST_PIECE);
    if length == 0 {
        return;
    }
    // The text is short, and a secret may be long: so the text's pieces are looked up.
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, piece) in text.windows(length).enumerate() {
        places.entry(piece).or_default().push(at);
    }
    for piece in secret.windows(length) {
        for &at in places.get(piece).into_iter().flatten() {
            hidden[at..at + length].fill(true);
        }
    }
}

/// The secret as texts quote it, where that is not as it was sent.
fn forms(secret: &str) -> Vec<Zeroizing<String>> {
    let text = |longest: usize| Zeroizing::new(String::with_capacity(secret.len() * longest));
    let (mut percent, mut form) = (text(3), text(3));
    // The longest escape is \u001f.
    let (mut json, mut quoted) = (text(6), text(2));
    for c in secret.chars() {
        let letter = match c {
            '"' | '\\' => Some(c),
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            _ => None,
        };
        if letter.is_some() {
            json.push('\\');
            quoted.push('\\');
        }
        match c {
            // Go's encoder of JSON escapes these three as well; its %q does not.
            '<' | '>' | '&' | '\0'..='\x1f' if letter.is_none() => {
                // Writing to a string cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            _ => json.push(letter.unwrap_or(c)),
        }
        quoted.push(letter.unwrap_or(c));
        let mut bytes = [0; 4];
        for byte in c.encode_utf8(&mut bytes).bytes() {
            let start = percent.len();
            let _ = match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    write!(percent, "{}", char::from(byte))
                }
                _ => write!(percent, "%{byte:02X}"),
            };
            // A form, and a query of Go, have a plus for a space.
            form.push_str(if byte == b' ' { "+" } else { &percent[start..] });
        }
    }
    let mut forms = vec![json, quoted, percent, form];
    forms.retain(|form| form.as_str() != secret);
    // Within a longer text in base64, a secret begins at one of three places in a group.
    for skipped in 0..3 {
        let mut shifted = Zeroizing::new(Vec::with_capacity(secret.len() + skipped));
        shifted.resize(skipped, 0);
        shifted.extend_from_slice(secret.as_bytes());
        let text = Zeroizing::new(Base64Unpadded::encode_string(&shifted));
        // Without the characters that depend on what stands in front of it or follows.
        let inner = text.get((skipped * 8).div_ceil(6)..shifted.len() * 8 / 6);
        let Some(inner) = inner.filter(|inner| inner.len() >= SHORTEST_PIECE) else {
            continue;
        };
        forms.push(Zeroizing::new(inner.replace('+', "-").replace('/', "_")));
        forms.push(Zeroizing::new(inner.to_owned()));
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: F12
    #[test]
    fn secret_is_struck_in_every_form_and_in_pieces() {
        let secret = r#"p"a\ss<word>/of+ann~äö"#;
        let sent = Sent::new([secret, "s.TOKENTOKENTOKEN", "pin", ""]);
        let base64 = |text: &str| Base64Unpadded::encode_string(text.as_bytes());
        let whole = |before: &str| base64(&format!("{before}{secret} and more"));
        let go = r#"p\"a\\ss\u003cword\u003e/of+ann~äö"#;
        let percent = "p%22a%5Css%3Cword%3E%2Fof%2Bann~%C3%A4%C3%B6";
        let table = [
            ("cannot parse it".to_owned(), "cannot parse it"),
            (format!("<{secret}>"), "<[secret]>"),
            (
                format!("{{\"password\":\"{go}\"}}"),
                r#"{"password":"[secret]"}"#,
            ),
            (format!("?q={percent}&r"), "?q=[secret]&r"),
            (
                "token s.TOKENTOKENTOKEN, twice: s.TOKENTOKENTOKEN".to_owned(),
                "token [secret], twice: [secret]",
            ),
            // A part of it, as in a text that was cut off.
            (
                "bad token s.TOKENTOKEN...".to_owned(),
                "bad token [secret]...",
            ),
            ("bad token s.TOK...".to_owned(), "bad token s.TOK..."),
            ("a pin, not in pi".to_owned(), "a [secret], not in pi"),
        ];
        for (text, expected) in table {
            assert_eq!(sent.strike(&text), expected, "{text}");
        }
        for before in ["", "x", "xy", "xyz"] {
            let text = whole(before);
            let struck = sent.strike(&text);
            assert!(struck.contains(STRUCK), "{struck}");
            assert!(struck.len() < text.len() / 2 + 8, "{struck}");
            let text = text.replace('+', "-").replace('/', "_");
            assert!(sent.strike(&text).contains(STRUCK), "{text}");
        }
        // No secret, no change.
        assert_eq!(Sent::default().strike("all of it"), "all of it");
    }

    /// Scenario: F12
    #[test]
    fn secret_is_struck_where_go_has_quoted_it_or_a_form_has_sent_it() {
        let table = [
            // Go's %q escapes quotes, but no angle brackets.
            (
                r#"a"b<c"d"#,
                r#"bad password "a\"b<c\"d""#,
                "bad password \"[secret]\"",
            ),
            (
                "one\ntwo\r\tsix",
                r#"{"key":"one\ntwo\r\tsix"}"#,
                "{\"key\":\"[secret]\"}",
            ),
            (
                "correct horse battery",
                "?password=correct+horse+battery&x",
                "?password=[secret]&x",
            ),
        ];
        for (secret, text, expected) in table {
            assert_eq!(Sent::new([secret]).strike(text), expected);
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ä".repeat(LONGEST_TEXT) + "x";
        let cut = Sent::new(["some secret"]).strike(&long);
        assert_eq!(cut.len(), LONGEST_TEXT);
    }
}
