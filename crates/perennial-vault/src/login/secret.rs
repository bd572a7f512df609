use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::Problem;

/// In bytes; no credential is as long.
const LARGEST_FILE: u64 = 4 << 20;

/// A secret: text, or a file that is read each time the secret is needed.
///
/// A line end after the secret, as files have it, is not part of it, nor is a byte order mark
/// before it. `into()` makes a secret of text, which is wiped from memory when dropped. `Debug`
/// shows a file's path and never the text.
#[derive(Clone)]
pub struct Secret(Origin);

#[derive(Clone)]
enum Origin {
    Text(Zeroizing<String>),
    File(PathBuf),
}

impl Secret {
    /// The content of this file, read each time the secret is needed.
    ///
    /// So a platform may replace the file: a projected token, a secret that is rotated, a token
    /// that an agent keeps. At most 4 MiB; not a pipe or a device.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Origin::File(path.into()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Origin::Text(Zeroizing::new(text)))
    }
}

impl From<&String> for Secret {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Origin::Text(_) => f.debug_struct("Secret").finish_non_exhaustive(),
            Origin::File(path) => f
                .debug_struct("Secret")
                .field("file", &shown(path))
                .finish(),
        }
    }
}

/// A secret as one part of [`Auth`](crate::Auth), with the rule for its text.
#[derive(Clone)]
pub(super) struct Part {
    field: &'static str,
    secret: Secret,
    rule: Rule,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.secret.fmt(f)
    }
}

impl Part {
    pub(super) fn new(field: &'static str, secret: impl Into<Secret>, rule: Rule) -> Self {
        Self {
            field,
            secret: secret.into(),
            rule,
        }
    }

    /// Checks what can be checked before a file is read.
    pub(super) fn check(&self) -> Result<(), Problem> {
        match &self.secret.0 {
            Origin::Text(text) => self.apply(text).map(drop),
            Origin::File(path) if path.as_os_str().is_empty() => {
                Err(self.unusable("the path is empty".to_owned()))
            }
            Origin::File(_) => Ok(()),
        }
    }

    /// The text as it is now.
    pub(super) async fn read(&self) -> Result<Zeroizing<String>, Problem> {
        let path = match &self.secret.0 {
            Origin::Text(text) => return self.apply(text),
            Origin::File(path) => path,
        };
        let bytes = read(path).await;
        let bytes = bytes.map_err(|error| Problem::SecretFile(self.field, shown(path), error))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => self.apply(text),
            Err(_) if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) => {
                Err(self.unusable("the text is UTF-16; save it as UTF-8".to_owned()))
            }
            Err(error) => Err(self.unusable(format!("not text at byte {}", error.valid_up_to()))),
        }
    }

    pub(super) fn unusable(&self, problem: String) -> Problem {
        Problem::Secret(self.field, problem)
    }

    fn apply(&self, text: &str) -> Result<Zeroizing<String>, Problem> {
        // Editors of Windows begin a file with this mark; a server would take it for a letter.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        (self.rule)(text).map_err(|problem| self.unusable(problem))
    }
}

/// The path, unless it may be a secret that was given instead of its path.
fn shown(path: &Path) -> PathBuf {
    const LONGEST_NAME: usize = 20;
    let text = path.as_os_str().as_encoded_bytes();
    let has_only = |allowed: fn(&u8) -> bool| text.iter().all(allowed);
    let is_name = !text.contains(&b'/') && !text.contains(&b'\\');
    // Of base64's letters alone, among them the slash.
    let is_key = text.len() > 2 * LONGEST_NAME
        && !text.starts_with(b"/")
        && has_only(|byte| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte));
    if (is_name && text.len() > LONGEST_NAME)
        || is_key
        || !has_only(|byte| !byte.is_ascii_control())
    {
        return PathBuf::from("(not shown: it may be the secret instead of its path)");
    }
    path.to_owned()
}

async fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let metadata = tokio::fs::metadata(path).await?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    tokio::fs::read(path).await.map(Zeroizing::new)
}

/// The text to send, or what is wrong with it: the place, never the value.
type Rule = fn(&str) -> Result<Zeroizing<String>, String>;

/// One line, without its end.
pub(super) fn line(text: &str) -> Result<Zeroizing<String>, String> {
    let trimmed = text.trim_end_matches(['\r', '\n']);
    if trimmed.is_empty() {
        return Err("empty".to_owned());
    }
    if let Some(at) = trimmed.find(char::is_control) {
        return Err(format!("control character at byte {at}"));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}

/// A line that can be sent in a header, as tokens are.
pub(super) fn header(text: &str) -> Result<Zeroizing<String>, String> {
    let text = line(text)?;
    if !text.is_ascii() {
        return Err("a character is not ASCII".to_owned());
    }
    Ok(text)
}

/// Many lines, which a parser checks later.
pub(super) fn pem(text: &str) -> Result<Zeroizing<String>, String> {
    if text.trim().is_empty() {
        return Err("empty".to_owned());
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: F13
    #[tokio::test]
    async fn secret_given_instead_of_its_path_is_never_shown() {
        let secrets = [
            "hvs.CAESIJzV9q3vGq2mZ0WmYV7uY5Xk",
            "5d0c9a3e-6a52-4a86-9a55-0c9f0e7c1b2a",
            "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49/wEHBG0wawIBAQQg",
            "first line\nsecond",
        ];
        for secret in secrets {
            let part = Part::new("secret_id", Secret::file(secret), line);
            let error = part.read().await.unwrap_err();
            let shown = format!("{error} {error:?} {part:?}");
            assert!(!shown.contains(&secret[..8]), "{shown}");
        }
        for path in [
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "secret_id.txt",
        ] {
            let part = Part::new("secret_id", Secret::file(path), line);
            assert!(format!("{part:?}").contains(path));
        }
    }

    /// Scenario: N16
    #[tokio::test]
    async fn byte_order_mark_before_a_secret_is_not_part_of_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let part = || Part::new("secret_id", Secret::file(file.path()), line);
        std::fs::write(file.path(), "\u{feff}the-secret\r\n").unwrap();
        assert_eq!(*part().read().await.unwrap(), "the-secret");
        let utf16: Vec<_> = "\u{feff}the-secret"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        std::fs::write(file.path(), utf16).unwrap();
        let error = part().read().await.unwrap_err().to_string();
        assert!(error.contains("UTF-16; save it as UTF-8"), "{error}");
    }
}
