use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::reader::off_worker;
use super::{CacheKey, CertSource, FetchContext, FetchReason, Fetched};
use crate::clock::Clock;
use crate::error::{BoxError, SourceError};
use crate::material::{CertMaterial, MaterialError};
use crate::schedule::RenewalSchedule;
use crate::snapshot::Snapshot;
use crate::tls::{TlsPolicy, default_provider};

mod disk;
use super::trusted::Lock;
use disk::{LOCK_POLL, SavedFile};
mod format;
pub(crate) use format::SavedCert;
use format::SavedCertError;

/// The longest time that a start waits for the file.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a start waits for another process that starts with the same file.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// How long dropping the source waits for a write under way.
const DROP_LIMIT: Duration = Duration::from_secs(2);

/// Keeps the published certificate in a file for the next start; see [`CertSource::saved_at`].
pub(super) struct Saved<S: CertSource> {
    source: S,
    file: Arc<SavedFile>,
    clock: Clock,
    /// Whether the file was read: once, at the start.
    was_read: AtomicBool,
    /// Past its renewal point, for a source that is unavailable.
    spare: Mutex<Option<Arc<CertMaterial>>>,
    /// Digest of the material that is in the file, or on its way there.
    kept: Mutex<Option<[u8; 32]>>,
}

impl<S: CertSource> Saved<S> {
    pub(super) fn new(source: S, path: PathBuf) -> Self {
        Self {
            source,
            file: SavedFile::new(path),
            clock: Clock::default(),
            was_read: AtomicBool::new(false),
            spare: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// The saved certificate, if it can be used now; one for later becomes the spare.
    async fn saved(&self, key: CacheKey) -> Option<CertMaterial> {
        let (file, now) = (Arc::clone(&self.file), self.clock.now());
        let reading = off_worker(move || {
            let Some(text) = file.read().map_err(Unfit::Unsafe)? else {
                return Ok::<_, Unfit>(None);
            };
            let saved = SavedCert::parse(&text)?;
            if saved.cache_key != key {
                return Err(Unfit::OtherRequest);
            }
            let material = Arc::new(saved.material);
            let use_now = is_before_renewal(&material, now)?;
            Ok(Some((material, use_now)))
        });
        let read = match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(read)) => read,
            // The runtime is shutting down.
            Ok(Err(_)) => return None,
            Err(_) => Err(Unfit::TimedOut),
        };
        let (saved, use_now) = match read {
            Ok(found) => found?,
            Err(unfit) => {
                let reason = &unfit as &dyn std::error::Error;
                tracing::info!(path = self.file.shown, reason, "saved certificate not used");
                return None;
            }
        };
        if !use_now {
            *lock(&self.spare) = Some(saved);
            return None;
        }
        tracing::info!(path = self.file.shown, "using the saved certificate");
        self.used(saved)
    }

    /// The spare: past its renewal point but better than none.
    fn spare(&self) -> Option<CertMaterial> {
        let saved = lock(&self.spare).take()?;
        // It may have expired since it was read.
        is_before_renewal(&saved, self.clock.now()).ok()?;
        tracing::warn!(
            path = self.file.shown,
            "the source is unavailable; using the saved certificate past its renewal point"
        );
        self.used(saved)
    }

    fn used(&self, saved: Arc<CertMaterial>) -> Option<CertMaterial> {
        *lock(&self.kept) = Some(saved.digest());
        // The snapshot that it was checked with is gone.
        Arc::into_inner(saved)
    }

    /// Waits a little while another process holds the lock of the file; `None` without it.
    async fn lock(&self) -> Option<Lock> {
        let held = async {
            loop {
                let file = Arc::clone(&self.file);
                match off_worker(move || file.try_lock()).await {
                    Ok(Ok(None)) => tokio::time::sleep(LOCK_POLL).await,
                    Ok(Ok(held)) => return held,
                    // Without locks, each process issues its own.
                    Ok(Err(_)) | Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(LOCK_WAIT, held).await.ok().flatten()
    }

    fn save(&self, snapshot: &Snapshot) {
        if !self.is_written(snapshot) {
            self.file.keep_until_written(None);
        }
    }

    /// Whether the file is going to be written.
    fn is_written(&self, snapshot: &Snapshot) -> bool {
        let Some(key) = self.source.cache_key() else {
            self.file.warn("the source has no cache key", None);
            return false;
        };
        let material = snapshot.material();
        let digest = material.digest();
        if lock(&self.kept).replace(digest) == Some(digest) {
            return false;
        }
        let Some(text) = format::render(material, key, snapshot.obtained_at()) else {
            self.file.warn("the key stays in its device", None);
            return false;
        };
        self.file.write(text);
        true
    }
}

impl<S: CertSource> Drop for Saved<S> {
    fn drop(&mut self) {
        if !self.file.is_idle_within(DROP_LIMIT) {
            self.file.warn("the write has not finished", None);
        }
    }
}

/// Why a saved certificate is not used.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("the file is not safe to use")]
    Unsafe(#[source] BoxError),
    #[error("the file is not a saved certificate")]
    Format(#[from] SavedCertError),
    #[error("the file was not read within {READ_TIMEOUT:?}")]
    TimedOut,
    #[error("the source requests another certificate now")]
    OtherRequest,
    #[error("it was obtained in the future, by our clock")]
    FromTheFuture,
    #[error("no default crypto provider to check it with")]
    NoProvider,
    #[error("it does not pass the checks")]
    Material(#[source] MaterialError),
}

/// Whether the renewal point lies ahead; an error if the certificate must not be used at all.
///
/// Makes the renewer's own checks: a start that fails in the renewer does not fetch again.
fn is_before_renewal(saved: &Arc<CertMaterial>, now: SystemTime) -> Result<bool, Unfit> {
    if saved.when_obtained().is_none_or(|at| at > now) {
        return Err(Unfit::FromTheFuture);
    }
    let provider = default_provider().ok_or(Unfit::NoProvider)?;
    let tls = TlsPolicy::of_saved(provider).map_err(|_no_tls13| Unfit::NoProvider)?;
    let snapshot = Snapshot::build(saved, None, now, &tls).map_err(Unfit::Material)?;
    // By the default schedule; by another one the renewer may fetch a newer certificate at once.
    let schedule = RenewalSchedule::new();
    let point = schedule.renewal_point(&snapshot.usable_lifetime(), snapshot.leaf_sha256());
    Ok(point.is_ok_and(|point| now < point))
}

impl<S: CertSource> CertSource for Saved<S> {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        // Before the lock: its file has the name of this one.
        self.file.check_path().map_err(SourceError::invalid)?;
        self.file.keep_until_written(None);
        let mut held = None;
        if context.reason == FetchReason::Start
            && let Some(key) = self.source.cache_key()
            && !self.was_read.swap(true, Ordering::Relaxed)
        {
            held = self.lock().await;
            if let Some(material) = self.saved(key).await {
                return Ok(material.into());
            }
        }
        match self.source.fetch(context).await {
            Err(error) if error.is_transient() && context.current.is_none() => {
                self.spare().map(Fetched::from).ok_or(error)
            }
            Ok(fetched) => {
                self.file.keep_until_written(held);
                Ok(fetched)
            }
            error => error,
        }
    }

    async fn changed(&self) {
        self.source.changed().await;
    }

    fn published(&self, snapshot: &Arc<Snapshot>) {
        self.source.published(snapshot);
        self.save(snapshot);
    }

    fn cache_key(&self) -> Option<CacheKey> {
        self.source.cache_key()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
