use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::input::{Input, Place};

/// Where the passphrase of an encrypted private key comes from.
///
/// A variable and a file are read anew at each fetch. A file that changes is a change of the
/// source. `Debug` shows where it comes from, never what it is.
///
/// # Example
/// ```
/// use perennial::{FileSource, Passphrase};
///
/// let source = FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt")
///     .passphrase(Passphrase::file("/run/secrets/tls-passphrase"));
/// ```
pub struct Passphrase(Input);

impl Passphrase {
    /// These bytes; wiped from memory when dropped.
    pub fn bytes(passphrase: impl Into<Vec<u8>>) -> Self {
        let bytes = Zeroizing::new(passphrase.into());
        Self(Input::bytes(Place::Program, bytes))
    }

    /// The value of this environment variable.
    pub fn env(variable: impl Into<OsString>) -> Self {
        Self(Input::variable(variable.into()))
    }

    /// The content of this file, without a line end at its end.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Input::file(path.into()))
    }

    pub(super) fn into_input(self) -> Input {
        self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passphrase({})", self.0.place)
    }
}
