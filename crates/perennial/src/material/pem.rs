//! Finds PEM blocks with their line numbers, so that an error can point at one.
//!
//! `pki_types::pem` knows no line numbers, skips unknown kinds and takes indented text for noise.
//! No error quotes a byte of the text.

use base64ct::{Base64, Encoding};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::error::MaterialError;
use super::kind::Kind;

/// What a block claims to be, by its BEGIN line. What it is, its DER says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Certificate,
    /// A certificate, and after it what OpenSSL trusts it for (`openssl x509 -trustout`).
    Trusted,
    /// A key of any form, encrypted or not.
    Key,
    /// Any key with a `Proc-Type: 4,ENCRYPTED` header: OpenSSL's legacy format.
    EncryptedByHeader,
    Known(Kind),
    /// Described for an error: the name may be anything, even a secret, so that none quotes it.
    Other(&'static str),
}

impl Label {
    fn of(name: &[u8]) -> Self {
        match name {
            b"CERTIFICATE" | b"X509 CERTIFICATE" => Self::Certificate,
            b"TRUSTED CERTIFICATE" => Self::Trusted,
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Self::Known(Kind::Request),
            b"OPENSSH PRIVATE KEY" => Self::Known(Kind::OpenSsh),
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Self::Known(Kind::PublicKey),
            b"X509 CRL" => Self::Known(Kind::RevocationList),
            b"PKCS7" | b"PKCS #7 SIGNED DATA" | b"CMS" => Self::Known(Kind::Pkcs7),
            b"EC PARAMETERS" => Self::Other("EC parameters"),
            b"DH PARAMETERS" => Self::Other("DH parameters"),
            // Of PKCS#1, SEC1, PKCS#8, encrypted or not, and of tools with names of their own.
            key if key.ends_with(b"PRIVATE KEY") => Self::Key,
            _ => Self::Other("a block of another kind"),
        }
    }

    /// A description for errors.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Certificate | Self::Trusted => Kind::Certificate.description(),
            Self::Key => Kind::Key.description(),
            Self::EncryptedByHeader => Kind::EncryptedKey.description(),
            Self::Known(kind) => kind.description(),
            Self::Other(words) => words,
        }
    }

    pub(super) fn is_key(self) -> bool {
        matches!(self, Self::Key | Self::EncryptedByHeader)
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
        decode(&base64).ok_or_else(|| self.malformed("the block that begins here is not base64"))
    }

    pub(super) fn malformed(&self, problem: &'static str) -> MaterialError {
        MaterialError::Pem {
            part: self.part,
            line: self.line,
            problem,
        }
    }

    /// The error for a block that is not what was expected.
    pub(super) fn is_of_kind(&self, kind: Kind) -> MaterialError {
        MaterialError::OtherKind {
            part: self.part,
            line: self.line,
            found: kind.description(),
        }
    }
}

/// Whether a text contains a BEGIN line.
pub(super) fn is_pem(text: &[u8]) -> bool {
    contains(text, BEGIN)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// A copy without what editors, variables and JSON put into a text.
///
/// Byte order marks, of which joined files have several, and zero-width spaces are left out.
/// The characters `\n` become line ends, `\/` a slash.
pub(super) fn readable(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let [first, ..] = rest {
        let (byte, length) = match rest {
            [0xef, 0xbb, 0xbf, ..] | [0xe2, 0x80, 0x8b, ..] => (None, 3),
            // A space that does not break.
            [0xc2, 0xa0, ..] => (Some(b' '), 2),
            // Escaped twice or more.
            [b'\\', b'\\' | b'/', ..] => (None, 1),
            [b'\\', b'r', ..] => (None, 2),
            [b'\\', b'n', ..] => (Some(b'\n'), 2),
            _ => (Some(*first), 1),
        };
        out.extend(byte);
        rest = &rest[length..];
    }
    out
}

/// A BEGIN or END line, or what is left of one in a text that lost its line ends.
struct Armour<'a> {
    is_begin: bool,
    /// Whether nothing but white space and quotes precedes it in its line.
    is_first: bool,
    /// `None` without its closing dashes.
    name: Option<&'a [u8]>,
    /// Where it begins and ends in its line.
    at: std::ops::Range<usize>,
}

impl<'a> Armour<'a> {
    /// The first one in this line, or in what is left of it.
    fn find(line: &'a [u8]) -> Option<Self> {
        let (start, kind) = line
            .windows(END.len())
            .enumerate()
            .find_map(|(at, window)| {
                let kind = [BEGIN, END]
                    .into_iter()
                    .find(|kind| line[at..].starts_with(kind));
                kind.filter(|_| window.starts_with(DASHES))
                    .map(|kind| (at, kind))
            })?;
        let rest = &line[start + kind.len()..];
        let closing = position(rest, DASHES);
        let end = closing.map_or(line.len(), |at| start + kind.len() + at + DASHES.len());
        Some(Self {
            is_begin: kind == BEGIN,
            is_first: line[..start].iter().all(is_around),
            name: closing.map(|at| rest[..at].trim_ascii()),
            at: start..end,
        })
    }
}

/// All blocks of a text in order; text around them is ignored.
///
/// White space around a line is ignored too, so CRLF and indented texts are read, and so is a text
/// whose line ends became spaces or were lost.
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
    // Where lines begin blocks, one within a line is part of a comment.
    let has_lines =
        lines(text).any(|line| Armour::find(line).is_some_and(|armour| armour.is_first));
    let mut found = Vec::new();
    // A block whose END line has not been found yet: its body is all the text that follows.
    let mut open: Option<Block<'_>> = None;
    let mut offset = 0;
    for (index, raw) in lines(text).enumerate() {
        let number = index + 1;
        let line_end = offset + raw.len();
        let mut at = offset;
        let mut has_ended_here = false;
        while let Some(armour) = Armour::find(&text[at..line_end]) {
            let (start, end) = (at + armour.at.start, at + armour.at.end);
            at = end;
            let is_comment = !armour.is_first && !has_ended_here;
            if is_comment && open.is_none() && (has_lines || !armour.is_begin) {
                continue;
            }
            let Some(name) = armour.name else {
                // The writer may not have finished the last line.
                if line_end == text.len() {
                    return cut_off(open.map_or(number, |open| open.line));
                }
                return malformed(number, "a BEGIN or END line without its closing dashes");
            };
            if armour.is_begin {
                let begun = open.replace(Block {
                    part,
                    name,
                    label: Label::of(name),
                    line: number,
                    body: &text[end..],
                });
                if let Some(unfinished) = begun {
                    return cut_off(unfinished.line);
                }
                continue;
            }
            let Some(mut block) = open.take() else {
                return malformed(number, "an END line without its BEGIN line");
            };
            if block.name != name {
                let problem = "the END line names another kind than the BEGIN line";
                return malformed(number, problem);
            }
            block.body = &block.body[..block.body.len() - (text.len() - start)];
            if block.label == Label::Key && contains(block.body, b"Proc-Type:") {
                block.label = Label::EncryptedByHeader;
            }
            found.push(block);
            has_ended_here = true;
        }
        offset = line_end + 1;
    }
    match open {
        Some(unfinished) => cut_off(unfinished.line),
        None => Ok(found),
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    position(text, words).is_some()
}

fn position(text: &[u8], words: &[u8]) -> Option<usize> {
    text.windows(words.len()).position(|window| window == words)
}

/// White space, and the quotes that some tools leave around a value.
pub(super) fn is_around(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'')
}

/// `Name: value` within a block (RFC 1421); a line of base64 has no colon.
fn is_header(line: &[u8]) -> bool {
    line.contains(&b':')
}

/// Base64 without white space, in constant time.
pub(super) fn decode(base64: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    let length = Base64::decode(base64, &mut der).ok()?.len();
    der.truncate(length);
    Some(der)
}

/// Appends one block with a private key.
pub(crate) fn write_key(text: &mut Vec<u8>, key: &PrivateKeyDer<'_>) {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    write(text, label, key.secret_der());
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
            let text = String::from_utf8(readable(text.as_bytes()).to_vec()).unwrap();
            let found = blocks(text.as_bytes()).unwrap();
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(*found[0].decode().unwrap(), [7; 90]);
        }
    }

    #[test]
    fn armour_within_a_line_counts_only_where_line_ends_were_lost() {
        let plain = block("CERTIFICATE", &[7; 90]);
        let flat = plain.replace('\n', "");
        let table = [
            (
                format!("from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----\n{plain}"),
                1,
            ),
            (format!("{flat}{flat}"), 2),
            (format!("{flat} issuer=/CN=ca {flat}"), 2),
            (format!("subject=/CN=app {flat}"), 1),
            (format!("{flat}\n{plain}{flat}"), 3),
        ];
        for (text, expected) in table {
            let found = blocks(text.as_bytes()).unwrap();
            assert_eq!(found.len(), expected, "{text}");
            for block in found {
                assert_eq!(*block.decode().unwrap(), [7; 90]);
            }
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
