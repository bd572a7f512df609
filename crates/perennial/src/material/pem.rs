//! Finds PEM blocks with their line numbers, so that an error can point at one.
//!
//! `pki_types::pem` knows no line numbers, skips unknown kinds and takes indented text for noise.
//! No error quotes a byte of the text.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

/// The kind of a block, by its BEGIN line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Certificate,
    Pkcs8,
    Pkcs1,
    Sec1,
    EncryptedPkcs8,
    /// Any key with a `Proc-Type: 4,ENCRYPTED` header: OpenSSL's legacy format.
    EncryptedByHeader,
    /// Neither key nor certificate; described for an error.
    Other(&'static str),
}

impl Label {
    fn of(name: &[u8]) -> Self {
        match name {
            b"CERTIFICATE" | b"X509 CERTIFICATE" => Self::Certificate,
            b"PRIVATE KEY" => Self::Pkcs8,
            b"RSA PRIVATE KEY" => Self::Pkcs1,
            b"EC PRIVATE KEY" => Self::Sec1,
            b"ENCRYPTED PRIVATE KEY" => Self::EncryptedPkcs8,
            b"TRUSTED CERTIFICATE" => Self::Other("an OpenSSL trusted certificate"),
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => {
                Self::Other("a certificate request")
            }
            b"OPENSSH PRIVATE KEY" => Self::Other("an OpenSSH private key"),
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Self::Other("a public key"),
            b"EC PARAMETERS" => Self::Other("EC parameters"),
            b"DH PARAMETERS" => Self::Other("DH parameters"),
            b"X509 CRL" => Self::Other("a revocation list"),
            b"PKCS7" | b"CMS" => Self::Other("a PKCS#7 container"),
            // The name may be anything, even a secret, so no error quotes it.
            _ => Self::Other("a block of another kind"),
        }
    }

    /// A description for errors.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Pkcs8 | Self::Pkcs1 | Self::Sec1 => "a private key",
            Self::EncryptedPkcs8 | Self::EncryptedByHeader => "an encrypted private key",
            Self::Other(words) => words,
        }
    }

    pub(super) fn is_key(self) -> bool {
        !matches!(self, Self::Certificate | Self::Other(_))
    }
}

/// One block, still in base64.
pub(super) struct Block<'a> {
    pub(super) label: Label,
    /// The BEGIN line, counted from 1.
    pub(super) line: usize,
    /// The text between the BEGIN line and the END line.
    body: &'a [u8],
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    CutOff { line: usize },
    Malformed { line: usize, problem: &'static str },
}

impl Block<'_> {
    pub(super) fn decode(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        // Reserved in full: a buffer that grows leaves copies of the key in memory.
        let mut base64 = Zeroizing::new(Vec::with_capacity(self.body.len()));
        for line in lines(self.body).filter(|line| !is_header(line)) {
            base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
        let problem = "the block that begins here is not base64";
        decode(&base64).ok_or_else(|| malformed(self.line, problem))
    }
}

/// Whether a text contains a BEGIN line.
pub(super) fn is_pem(text: &[u8]) -> bool {
    text.windows(BEGIN.len()).any(|window| window == BEGIN)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// All blocks of a text in order; text around them is ignored.
///
/// White space around a line is ignored too, so CRLF and indented texts are read.
pub(super) fn blocks(text: &[u8]) -> Result<Vec<Block<'_>>, Fault> {
    let mut found = Vec::new();
    let mut open: Option<Open<'_>> = None;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut offset = 0;
    for (index, raw) in lines(text).enumerate() {
        let (line, number) = (raw.trim_ascii(), index + 1);
        let after = (offset + raw.len() + 1).min(text.len());
        let begin = armour(BEGIN, line);
        let end = armour(END, line);
        if let Some(None) = begin.or(end) {
            // The writer may not have finished the last line.
            return Err(if offset + raw.len() == text.len() {
                Fault::CutOff {
                    line: open.map_or(number, |open| open.line),
                }
            } else {
                malformed(number, "a BEGIN or END line without its closing dashes")
            });
        }
        if let Some(Some(name)) = begin {
            if let Some(open) = open {
                return Err(Fault::CutOff { line: open.line });
            }
            open = Some(Open {
                name,
                label: Label::of(name),
                line: number,
                body_from: after,
            });
        } else if let Some(Some(name)) = end {
            let Some(open) = open.take() else {
                return Err(malformed(number, "an END line without its BEGIN line"));
            };
            if open.name != name {
                return Err(malformed(
                    number,
                    "the END line names another kind than the BEGIN line",
                ));
            }
            found.push(Block {
                label: open.label,
                line: open.line,
                body: &text[open.body_from..offset],
            });
        } else if let Some(open) = &mut open
            && line.starts_with(b"Proc-Type:")
            && open.label.is_key()
        {
            open.label = Label::EncryptedByHeader;
        }
        offset = after;
    }
    match open {
        Some(open) => Err(Fault::CutOff { line: open.line }),
        None => Ok(found),
    }
}

/// A block whose END line has not been found yet.
struct Open<'a> {
    name: &'a [u8],
    label: Label,
    line: usize,
    body_from: usize,
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// `Name: value` within a block (RFC 1421); a line of base64 has no colon.
fn is_header(line: &[u8]) -> bool {
    line.contains(&b':')
}

/// The name in a BEGIN or END line, `Some(None)` if that is incomplete; `None` for another line.
fn armour<'a>(kind: &[u8], line: &'a [u8]) -> Option<Option<&'a [u8]>> {
    let rest = line.strip_prefix(kind)?;
    Some(rest.strip_suffix(DASHES))
}

fn malformed(line: usize, problem: &'static str) -> Fault {
    Fault::Malformed { line, problem }
}

/// Base64 without white space, in constant time.
pub(super) fn decode(base64: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    let length = Base64::decode(base64, &mut der).ok()?.len();
    der.truncate(length);
    Some(der)
}

/// Appends one block in lines of 64 characters.
pub(crate) fn write(text: &mut String, label: &str, der: &[u8]) {
    const WIDTH: usize = 64;
    let base64 = Zeroizing::new(Base64::encode_string(der));
    let armour = 2 * (END.len() + label.len() + DASHES.len() + 1);
    // A string that grows leaves copies of the key in memory.
    text.reserve(armour + base64.len() + base64.len() / WIDTH + 1);
    *text += "-----BEGIN ";
    *text += label;
    *text += "-----\n";
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(WIDTH.min(rest.len()));
        *text += line;
        *text += "\n";
        rest = after;
    }
    *text += "-----END ";
    *text += label;
    *text += "-----\n";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(label: &str, der: &[u8]) -> String {
        let mut text = String::new();
        write(&mut text, label, der);
        text
    }

    #[test]
    fn written_block_of_any_length_is_read_again() {
        for length in [0, 1, 2, 3, 47, 48, 49, 200] {
            let der = vec![0xa5; length];
            let text = block("PRIVATE KEY", &der);
            let found = blocks(text.as_bytes()).unwrap();
            assert_eq!(*found[0].decode().unwrap(), der);
        }
    }

    #[test]
    fn ignores_crlf_indentation_bom_and_surrounding_text() {
        let plain = block("CERTIFICATE", &[7; 90]);
        let table = [
            plain.replace('\n', "\r\n"),
            plain.lines().map(|line| format!("    {line} \n")).collect(),
            format!("\u{feff}{plain}"),
            format!("subject=/CN=app\nissuer: x\n\n{plain}\nthe end"),
        ];
        for text in table {
            let found = blocks(text.as_bytes()).unwrap();
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(*found[0].decode().unwrap(), [7; 90]);
        }
    }

    #[test]
    fn unfinished_block_is_cut_off_at_any_length_and_never_malformed() {
        let whole = block("CERTIFICATE", &[7; 90]);
        for length in BEGIN.len() + 1..whole.trim_end().len() {
            let outcome = blocks(&whole.as_bytes()[..length]).err();
            assert_eq!(outcome, Some(Fault::CutOff { line: 1 }), "{length}");
        }
    }

    #[test]
    fn faults_point_at_their_line() {
        let whole = block("CERTIFICATE", &[7; 90]);
        let half = &whole[..whole.len() / 2];
        let table = [
            (half.to_owned(), Fault::CutOff { line: 1 }),
            (format!("\n\n{half}\n{whole}"), Fault::CutOff { line: 3 }),
            (
                "\n-----BEGIN CERTIFICATE\n\n".to_owned(),
                malformed(2, "a BEGIN or END line without its closing dashes"),
            ),
            (
                "-----END CERTIFICATE-----".to_owned(),
                malformed(1, "an END line without its BEGIN line"),
            ),
            (
                whole.replace("END CERTIFICATE", "END PRIVATE KEY"),
                malformed(4, "the END line names another kind than the BEGIN line"),
            ),
        ];
        for (text, fault) in table {
            assert_eq!(blocks(text.as_bytes()).err(), Some(fault), "{text}");
        }
    }
}
