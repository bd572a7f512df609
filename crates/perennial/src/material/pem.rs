//! Finds PEM blocks with their line numbers, so that an error can point at one.
//!
//! `pki_types::pem` knows no line numbers, skips unknown kinds and takes indented text for noise.
//! No error quotes a byte of the text.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::error::MaterialError;

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
    /// The part of the material, for errors.
    part: &'static str,
    name: &'a [u8],
    pub(super) label: Label,
    /// The BEGIN line, counted from 1.
    pub(super) line: usize,
    /// The text between the BEGIN line and the END line.
    body: &'a [u8],
}

impl Block<'_> {
    pub(super) fn decode(&self) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
        // Reserved in full: a buffer that grows leaves copies of the key in memory.
        let mut base64 = Zeroizing::new(Vec::with_capacity(self.body.len()));
        for line in lines(self.body).filter(|line| !is_header(line)) {
            base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
        decode(&base64).ok_or(MaterialError::Pem {
            part: self.part,
            line: self.line,
            problem: "the block that begins here is not base64",
        })
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
pub(super) fn blocks<'a>(
    part: &'static str,
    text: &'a [u8],
) -> Result<Vec<Block<'a>>, MaterialError> {
    let cut_off = |line| Err(MaterialError::CutOff { part, line });
    let malformed = |line, problem| {
        Err(MaterialError::Pem {
            part,
            line,
            problem,
        })
    };
    let mut found = Vec::new();
    // A block whose END line has not been found yet: its body is all the text that follows.
    let mut open: Option<Block<'_>> = None;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut offset = 0;
    for (index, raw) in lines(text).enumerate() {
        let (line, number) = (raw.trim_ascii(), index + 1);
        let after = (offset + raw.len() + 1).min(text.len());
        let begin = armour(BEGIN, line);
        let end = armour(END, line);
        if let Some(None) = begin.or(end) {
            // The writer may not have finished the last line.
            if offset + raw.len() == text.len() {
                return cut_off(open.map_or(number, |open| open.line));
            }
            return malformed(number, "a BEGIN or END line without its closing dashes");
        }
        if let Some(Some(name)) = begin {
            let begun = open.replace(Block {
                part,
                name,
                label: Label::of(name),
                line: number,
                body: &text[after..],
            });
            if let Some(unfinished) = begun {
                return cut_off(unfinished.line);
            }
        } else if let Some(Some(name)) = end {
            let Some(mut block) = open.take() else {
                return malformed(number, "an END line without its BEGIN line");
            };
            if block.name != name {
                let problem = "the END line names another kind than the BEGIN line";
                return malformed(number, problem);
            }
            block.body = &block.body[..block.body.len() - (text.len() - offset)];
            found.push(block);
        } else if let Some(open) = &mut open
            && line.starts_with(b"Proc-Type:")
            && open.label.is_key()
        {
            open.label = Label::EncryptedByHeader;
        }
        offset = after;
    }
    match open {
        Some(unfinished) => cut_off(unfinished.line),
        None => Ok(found),
    }
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

/// Base64 without white space, in constant time.
pub(super) fn decode(base64: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    let length = Base64::decode(base64, &mut der).ok()?.len();
    der.truncate(length);
    Some(der)
}

/// Appends one block in lines of 64 characters.
pub(crate) fn write(text: &mut Vec<u8>, label: &str, der: &[u8]) {
    let base64 = Zeroizing::new(Base64::encode_string(der));
    text.extend(format!("-----BEGIN {label}-----\n").bytes());
    for line in base64.as_bytes().chunks(64) {
        text.extend(line);
        text.push(b'\n');
    }
    text.extend(format!("-----END {label}-----\n").bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &[u8]) -> Result<Vec<Block<'_>>, MaterialError> {
        super::blocks("part", text)
    }

    fn cut_off(line: usize) -> MaterialError {
        MaterialError::CutOff { part: "part", line }
    }

    fn malformed(line: usize, problem: &'static str) -> MaterialError {
        MaterialError::Pem {
            part: "part",
            line,
            problem,
        }
    }

    fn block(label: &str, der: &[u8]) -> String {
        let mut text = Vec::new();
        write(&mut text, label, der);
        String::from_utf8(text).unwrap()
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
            let outcome = blocks(&whole.as_bytes()[..length]).err().unwrap();
            assert_eq!(outcome.to_string(), cut_off(1).to_string(), "{length}");
        }
    }

    #[test]
    fn faults_point_at_their_line() {
        let whole = block("CERTIFICATE", &[7; 90]);
        let half = &whole[..whole.len() / 2];
        let table = [
            (half.to_owned(), cut_off(1)),
            (format!("\n\n{half}\n{whole}"), cut_off(3)),
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
            let found = blocks(text.as_bytes()).err().unwrap();
            assert_eq!(found.to_string(), fault.to_string(), "{text}");
        }
    }
}
