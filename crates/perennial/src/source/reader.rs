//! Fetches from inputs, and tells when they are other than at the last fetch.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::inputs::Inputs;
#[cfg(feature = "watch")]
use super::{folders, notifier::Notifier};
use crate::error::SourceError;
use crate::material::CertMaterial;

/// How often files are looked at, whether or not the system tells of changes.
pub const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How long a writer gets to finish before what it wrote is read.
#[cfg(feature = "watch")]
const SETTLE: Duration = Duration::from_millis(50);

/// The part of a file source that is the same wherever its files are named.
pub(super) struct Reader {
    poll: Duration,
    notification: Notification,
    #[cfg(feature = "watch")]
    notifier: Arc<Notifier>,
    /// Of the last fetch; `None` if it could not read everything, or there was none.
    fetched: Mutex<Option<[u8; 32]>>,
    #[cfg(test)]
    looks: Arc<std::sync::atomic::AtomicUsize>,
}

/// Whether the system is asked to tell of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notification {
    IfPossible,
    Off,
}

#[derive(Debug, thiserror::Error)]
#[error("poll_every is {got:?}: it must be longer than zero")]
struct NoInterval {
    got: Duration,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            poll: POLL_INTERVAL,
            notification: Notification::IfPossible,
            #[cfg(feature = "watch")]
            notifier: Arc::default(),
            fetched: Mutex::default(),
            #[cfg(test)]
            looks: Default::default(),
        }
    }
}

impl Reader {
    pub(super) fn poll_every(&mut self, interval: Duration) {
        self.poll = interval;
    }

    pub(super) fn poll_only(&mut self) {
        self.notification = Notification::Off;
    }

    pub(super) async fn fetch(&self, inputs: Inputs) -> Result<CertMaterial, SourceError> {
        if self.poll.is_zero() {
            return Err(SourceError::invalid(NoInterval { got: self.poll }));
        }
        let (digest, material) = off_worker(move || match inputs.read() {
            Ok(contents) => (Some(contents.digest()), inputs.material(&contents)),
            Err(error) => (None, Err(error)),
        })
        .await?;
        *self.fetched() = digest;
        material
    }

    /// Ready when everything can be read, and reads other than at the last fetch.
    ///
    /// A file that is gone or empty is not news: its writer is about to make it again, or the
    /// next fetch tells.
    pub(super) async fn changed(&self, inputs: Inputs) {
        if self.poll.is_zero() {
            // Each fetch is refused, and would be again.
            return std::future::pending().await;
        }
        let inputs = Arc::new(inputs);
        loop {
            if let Some(seen) = self.look(&inputs).await
                && Some(seen) != *self.fetched()
            {
                return;
            }
            self.until_next_look().await;
        }
    }

    async fn look(&self, inputs: &Arc<Inputs>) -> Option<[u8; 32]> {
        let inputs = Arc::clone(inputs);
        #[cfg(feature = "watch")]
        let notifier =
            (self.notification == Notification::IfPossible).then(|| self.notifier.clone());
        let seen = off_worker(move || {
            // Watch before reading: what is written between the two must be seen.
            #[cfg(feature = "watch")]
            if let Some(notifier) = notifier {
                let paths = inputs.all().filter_map(|input| input.path());
                notifier.watch(paths.flat_map(folders::on_the_way_to));
            }
            inputs.read().ok().map(|contents| contents.digest())
        });
        let seen = seen.await.ok().flatten();
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        seen
    }

    #[cfg(feature = "watch")]
    async fn until_next_look(&self) {
        if self.notification == Notification::Off {
            return tokio::time::sleep(self.poll).await;
        }
        tokio::select! {
            () = tokio::time::sleep(self.poll) => {}
            // Also keeps a folder in which somebody writes all the time from being read all the
            // time. If this is dropped here, the next call looks first.
            () = self.notifier.woken() => tokio::time::sleep(SETTLE.min(self.poll)).await,
        }
    }

    #[cfg(not(feature = "watch"))]
    async fn until_next_look(&self) {
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
            .field("poll", &self.poll)
            .field("notification", &self.notification)
            .finish_non_exhaustive()
    }
}

/// Files block, and a file system that hangs must hang no async worker.
pub(super) async fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(SourceError::unavailable)
}
