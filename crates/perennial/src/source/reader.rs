//! Fetches from inputs, and notices when they change; what file and environment have in common.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::CacheKey;
use super::input::{Input, Inputs};
#[cfg(feature = "watch")]
use super::watch::{Notifier, folders_on_the_way_to};
use crate::error::SourceError;
use crate::material::CertMaterial;

/// How often files are read to find changes, with and without the system's notification.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How long a writer gets to finish before its files are read.
#[cfg(feature = "watch")]
const SETTLE: Duration = Duration::from_millis(50);

/// The setters of every source that reads files; the source has a field `reader`.
macro_rules! reading_setters {
    () => {
        /// Decrypts the key with this passphrase, if it is encrypted PKCS#8 or in PKCS#12.
        ///
        /// Wiped from memory when the source is dropped. The last passphrase setter counts.
        #[cfg(feature = "encrypted-keys")]
        #[must_use]
        pub fn passphrase(mut self, passphrase: impl Into<Vec<u8>>) -> Self {
            let bytes = zeroize::Zeroizing::new(passphrase.into());
            let place = super::input::Place::Bytes(std::sync::Arc::new(bytes));
            let name = "the passphrase that the program gave";
            self.reader.passphrase = Some(Input::new(name, place));
            self
        }

        /// Takes the passphrase from an environment variable, looked up at each fetch.
        #[cfg(feature = "encrypted-keys")]
        #[must_use]
        pub fn passphrase_env(mut self, variable: impl Into<std::ffi::OsString>) -> Self {
            let variable = variable.into();
            let name = format!("the variable {}", variable.display());
            self.reader.passphrase =
                Some(Input::new(name, super::input::Place::Variable(variable)));
            self
        }

        /// Takes the passphrase from a file, without a line end at its end.
        ///
        /// Read at each fetch; a change of this file is a change of the source.
        #[cfg(feature = "encrypted-keys")]
        #[must_use]
        pub fn passphrase_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
            self.reader.passphrase = Some(Input::file(path.into()));
            self
        }

        /// Sets how often files are read to find changes: the longest time until one is noticed.
        ///
        /// # Defaults
        /// 10 s.
        ///
        /// # Errors
        /// Zero is refused at the first fetch.
        #[must_use]
        pub fn poll_every(mut self, interval: Duration) -> Self {
            self.reader.poll = interval;
            self
        }

        /// Turns the system's notification off: no watch, no thread, polling alone.
        #[must_use]
        pub fn poll_only(mut self) -> Self {
            self.reader.poll_only = true;
            self
        }
    };
}
pub(super) use reading_setters;

/// Fetches from inputs, and notices when they differ from the last fetch.
pub(super) struct Reader {
    pub(super) passphrase: Option<Input>,
    pub(super) poll: Duration,
    pub(super) poll_only: bool,
    #[cfg(feature = "watch")]
    notifier: Arc<Notifier>,
    /// Digest of the last fetch; `None` before the first, or if not everything could be read.
    fetched: Mutex<Option<[u8; 32]>>,
    #[cfg(test)]
    looks: Arc<std::sync::atomic::AtomicUsize>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            passphrase: None,
            poll: POLL_INTERVAL,
            poll_only: false,
            #[cfg(feature = "watch")]
            notifier: Arc::default(),
            fetched: Mutex::default(),
            #[cfg(test)]
            looks: Arc::default(),
        }
    }
}

impl Reader {
    pub(super) async fn fetch(&self, inputs: &Inputs) -> Result<CertMaterial, SourceError> {
        if self.poll.is_zero() {
            let problem = "invalid poll_every 0ns: expected more than zero";
            return Err(SourceError::invalid(problem));
        }
        let inputs = self.with_passphrase(inputs);
        let (digest, material) = off_worker(move || match inputs.read() {
            Ok(contents) => (Some(contents.digest()), inputs.material(&contents)),
            Err(error) => (None, Err(error)),
        })
        .await?;
        *self.fetched() = digest;
        material
    }

    /// Resolves when everything can be read and differs from the last fetch.
    ///
    /// A missing or empty file is not a change: its writer is about to write it, or the next fetch
    /// reports it.
    pub(super) async fn changed(&self, inputs: &Inputs) {
        if self.poll.is_zero() {
            // Every fetch is refused.
            return std::future::pending().await;
        }
        let inputs = Arc::new(self.with_passphrase(inputs));
        loop {
            if let Some(seen) = self.look(&inputs).await
                && Some(seen) != *self.fetched()
            {
                return;
            }
            self.until_next_look().await;
        }
    }

    /// Over the places, not their contents.
    pub(super) fn cache_key(&self, inputs: &Inputs) -> CacheKey {
        let inputs = self.with_passphrase(inputs);
        let places: Vec<_> = inputs.all().map(Input::to_string).collect();
        CacheKey::of(places.iter().map(String::as_bytes))
    }

    fn with_passphrase(&self, inputs: &Inputs) -> Inputs {
        Inputs {
            passphrase: self.passphrase.clone(),
            ..inputs.clone()
        }
    }

    async fn look(&self, inputs: &Arc<Inputs>) -> Option<[u8; 32]> {
        let inputs = Arc::clone(inputs);
        #[cfg(feature = "watch")]
        let notifier = (!self.poll_only).then(|| Arc::clone(&self.notifier));
        let seen = off_worker(move || {
            // Watch before reading: a write between the two must be noticed.
            #[cfg(feature = "watch")]
            if let Some(notifier) = notifier {
                let paths = inputs.all().filter_map(Input::path);
                notifier.watch(paths.flat_map(folders_on_the_way_to));
            }
            inputs.read().ok().map(|contents| contents.digest())
        });
        let seen = seen.await.ok().flatten();
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        seen
    }

    async fn until_next_look(&self) {
        #[cfg(feature = "watch")]
        if !self.poll_only {
            return tokio::select! {
                () = tokio::time::sleep(self.poll) => {}
                // The pause also keeps a folder that is written to all the time from being read
                // all the time. If this is dropped here, the next call looks first.
                () = self.notifier.woken() => tokio::time::sleep(SETTLE.min(self.poll)).await,
            };
        }
        tokio::time::sleep(self.poll).await;
    }

    fn fetched(&self) -> std::sync::MutexGuard<'_, Option<[u8; 32]>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Reader {
    /// How often it has looked for changes.
    pub(super) fn looks(&self) -> Arc<std::sync::atomic::AtomicUsize> {
        Arc::clone(&self.looks)
    }

    #[cfg(feature = "watch")]
    pub(super) fn watcher(&self) -> std::sync::Weak<tokio::sync::Notify> {
        self.notifier.weak()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field(
                "passphrase",
                &self.passphrase.as_ref().map(Input::to_string),
            )
            .field("poll", &self.poll)
            .field("poll_only", &self.poll_only)
            .finish_non_exhaustive()
    }
}

/// Runs blocking work on a thread of its own: a file system that hangs must not block a worker.
pub(super) async fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(SourceError::unavailable)
}
