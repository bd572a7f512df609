//! Wall clocks that can be stepped, one for each process: libfaketime.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::TestbedError;
use crate::locate;

/// libfaketime, which gives a process a wall clock of its own. Its monotonic clock stays the machine's.
///
/// It works for processes that read the time through libc, such as Postgres and programs in Rust; Go's do not.
#[derive(Clone, Debug)]
pub struct FakeClock {
    library: PathBuf,
}

impl FakeClock {
    /// Finds the installed library, or fetches Debian's package with `apt-get download` into the cache.
    ///
    /// # Errors
    /// [`TestbedError::NoFakeClock`] if neither works.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn find() -> Result<Self, TestbedError> {
        let library = locate::faketime().await?;
        Ok(Self { library })
    }

    /// The environment variables of a process whose clock is in `file`; it reads the file again each second.
    pub fn environment(&self, file: &Path) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", file.into()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_DISABLE_SHM", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }

    /// Sets the clock in `file` this many seconds ahead of the machine's; it holds within a second.
    ///
    /// The process must be able to read the file's folder. The first call creates the file.
    ///
    /// # Errors
    /// [`TestbedError::Folder`] if writing fails.
    pub fn set(file: &Path, ahead: i64) -> Result<(), TestbedError> {
        // Replaced whole: a process that reads an empty file ends.
        let draft = file.with_extension("new");
        fs::write(&draft, format!("{ahead:+}\n"))
            .and_then(|()| fs::set_permissions(&draft, Permissions::from_mode(0o644)))
            .and_then(|()| fs::rename(&draft, file))
            .map_err(TestbedError::at(file))
    }
}
