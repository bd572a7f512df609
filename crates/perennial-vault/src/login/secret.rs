use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::error::Problem;

/// In bytes; no credential is as long.
const LARGEST_FILE: u64 = 4 << 20;

/// The longest wait for a file: its file system may hang.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

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
    File(Arc<SecretFile>),
}

impl Secret {
    /// The content of this file, read each time the secret is needed.
    ///
    /// So a platform may replace the file: a projected token, a secret that is rotated, a token
    /// that an agent keeps. At most 4 MiB; not a pipe or a device. A file that is not read within
    /// 2 s, as on a file system that hangs, counts as unreadable.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::read_by(path.into(), read_file)
    }

    pub(super) fn read_by(path: PathBuf, read: ReadFile) -> Self {
        let reading = Mutex::default();
        Self(Origin::File(Arc::new(SecretFile {
            path,
            read,
            reading,
        })))
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
            Origin::File(file) => {
                let mut secret = f.debug_struct("Secret");
                secret.field("file", &shown(&file.path)).finish()
            }
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
            Origin::File(file) if file.path.as_os_str().is_empty() => {
                Err(self.unusable("the path is empty".to_owned()))
            }
            Origin::File(_) => Ok(()),
        }
    }

    /// The text as it is now.
    pub(super) async fn read(&self) -> Result<Zeroizing<String>, Problem> {
        let file = match &self.secret.0 {
            Origin::Text(text) => return self.apply(text),
            Origin::File(file) => file,
        };
        let unreadable = |error| Problem::SecretFile(self.field, shown(&file.path), error);
        let bytes = file.read().await.map_err(unreadable)?;
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

/// A file, and the reading of it that has not ended.
///
/// A reading that hangs in the kernel cannot be cancelled, so there is at most one, in a thread of
/// its own: the runtime's blocking threads also resolve names, and its end waits for them.
struct SecretFile {
    path: PathBuf,
    read: ReadFile,
    reading: Mutex<Option<Reading>>,
}

type Content = io::Result<Zeroizing<Vec<u8>>>;

pub(super) type ReadFile = fn(&Path) -> Content;

struct Reading {
    content: oneshot::Receiver<Content>,
    until: Instant,
}

impl SecretFile {
    /// The content as it is now, or an error after [`READ_TIMEOUT`]; at once if the reading of an
    /// earlier call still hangs.
    ///
    /// # Cancel safety
    /// The next call continues.
    async fn read(&self) -> Content {
        let mut slot = self.reading.lock().await;
        let hanging = slot.take().and_then(|mut reading| {
            let is_hanging = matches!(reading.content.try_recv(), Err(TryRecvError::Empty));
            // One that has ended since is older than this call.
            is_hanging.then_some(reading)
        });
        let reading = match hanging {
            Some(reading) => reading,
            None => self.begin()?,
        };
        let reading = slot.insert(reading);
        match tokio::time::timeout_at(reading.until, &mut reading.content).await {
            Ok(ended) => {
                *slot = None;
                ended.unwrap_or_else(|_| Err(io::Error::other("its reader has panicked")))
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("not read within {READ_TIMEOUT:?}: does its file system hang?"),
            )),
        }
    }

    fn begin(&self) -> io::Result<Reading> {
        let (ended, content) = oneshot::channel();
        let (path, read) = (self.path.clone(), self.read);
        // Not joined: it may hang for ever.
        std::thread::Builder::new()
            .name("perennial-vault-secret".to_owned())
            .spawn(move || {
                // No receiver is left if the source was dropped.
                let _ = ended.send(read(&path));
            })?;
        let until = Instant::now() + READ_TIMEOUT;
        Ok(Reading { content, until })
    }
}

fn read_file(path: &Path) -> Content {
    // Before it is opened: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    // Some file systems report no length. A buffer that grew would leave copies behind.
    let room = metadata.len().max(4_095) + 1;
    let mut content = Zeroizing::new(Vec::with_capacity(
        usize::try_from(room).unwrap_or_default(),
    ));
    File::open(path)?.take(room).read_to_end(&mut content)?;
    if content.len() as u64 == room {
        return Err(io::Error::other("it grew while it was read"));
    }
    Ok(content)
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
