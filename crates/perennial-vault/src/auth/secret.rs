use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use perennial::LARGEST_FILE;
use zeroize::Zeroizing;

use crate::builder::BuildError;
use crate::error::VaultError;

/// A secret: the text itself, or a file that is read each time the secret is needed.
///
/// A line end after it, as files have it, is not part of it. Text is made a secret by `into()`;
/// wiped from memory when dropped. `Debug` shows a file's path and never the text.
#[derive(Clone)]
pub struct Secret(Origin);

#[derive(Clone)]
enum Origin {
    Text(Zeroizing<String>),
    File(PathBuf),
}

impl Secret {
    /// What this file holds, whenever it is asked.
    ///
    /// Read anew each time, so that a platform may replace it: a projected token, a secret that is
    /// rotated, a token that an agent keeps. At most [`LARGEST_FILE`] bytes; no pipe or device.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Origin::File(path.into()))
    }

    /// Says what can be said before anything is read.
    pub(crate) fn checked(self, field: &'static str, rule: Rule) -> Result<Self, BuildError> {
        let refuse = |problem| BuildError::Secret { field, problem };
        match &self.0 {
            Origin::Text(text) => drop(rule(text).map_err(refuse)?),
            Origin::File(path) if path.as_os_str().is_empty() => {
                return Err(refuse("an empty path".to_owned()));
            }
            Origin::File(_) => {}
        }
        Ok(self)
    }

    /// The text as it is now, by the same rule.
    pub(super) async fn read(
        &self,
        field: &'static str,
        rule: Rule,
    ) -> Result<Zeroizing<String>, VaultError> {
        let unusable = |problem| VaultError::Credential { field, problem };
        let path = match &self.0 {
            Origin::Text(text) => return rule(text).map_err(unusable),
            Origin::File(path) => path,
        };
        let bytes = read(path)
            .await
            .map_err(|cause| VaultError::CredentialFile {
                field,
                path: path.clone(),
                cause,
            })?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => rule(text).map_err(unusable),
            Err(error) => Err(unusable(format!("no text at byte {}", error.valid_up_to()))),
        }
    }
}

async fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let about = tokio::fs::metadata(path).await?;
    if !about.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if about.len() > LARGEST_FILE {
        return Err(io::Error::other("it is too large"));
    }
    tokio::fs::read(path).await.map(Zeroizing::new)
}

/// What a text is sent as, or what is wrong with it: the place, never the value.
pub(super) type Rule = fn(&str) -> Result<Zeroizing<String>, String>;

/// One line, without its end.
pub(super) fn line(text: &str) -> Result<Zeroizing<String>, String> {
    let trimmed = text.trim_end_matches(['\r', '\n']);
    if trimmed.is_empty() {
        return Err("nothing".to_owned());
    }
    if let Some(at) = trimmed.find(char::is_control) {
        return Err(format!("a control character at byte {at}"));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}

/// A line that can be sent in a header, as tokens are.
pub(super) fn header(text: &str) -> Result<Zeroizing<String>, String> {
    let text = line(text)?;
    if !text.is_ascii() {
        return Err("a character that is not ASCII".to_owned());
    }
    Ok(text)
}

/// Many lines, whose parser has more to say.
pub(super) fn pem(text: &str) -> Result<Zeroizing<String>, String> {
    if text.trim().is_empty() {
        return Err("nothing".to_owned());
    }
    Ok(Zeroizing::new(text.to_owned()))
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
            Origin::File(path) => f.debug_struct("Secret").field("file", path).finish(),
        }
    }
}
