use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::reader::off_worker;
use crate::clock::Clock;
use crate::error::SourceError;
use crate::material::{CertMaterial, MaterialError};
use crate::schedule::RenewalSchedule;
use crate::snapshot::Snapshot;
use crate::source::{CacheKey, CertSource, FetchContext, FetchReason, Fetched};
use crate::tls::{TlsPolicy, TlsSettings, default_provider};

mod disk;
mod format;

pub use format::{SavedCert, SavedCertError};

/// Keeps what a source delivered in a file for the next start; made by [`CertSource::saved_at`].
///
/// At a start, the saved certificate is used instead of asking the source if it was asked for in
/// the same way ([`CertSource::request`]), passes all checks, and is before its renewal point,
/// which is where it was before the restart. One that is past that point but has not expired is
/// used only if the source cannot be reached. A source that does not say what it asks for is
/// asked at each start, and nothing is saved.
///
/// The file holds the private key. It is written as a whole, for its owner alone (mode 600); one
/// that others may write, or that is a link, is not used. Its folder should be this service's own.
/// What cannot be saved is used all the same: that is a warning, once. A key that stays in its
/// device is not saved.
pub struct Saved<S> {
    source: S,
    path: PathBuf,
    clock: Clock,
    /// Whether the file was looked at: once, at the start.
    looked: AtomicBool,
    /// Past its renewal point, for a source that cannot be reached.
    spare: Mutex<Option<SavedCert>>,
    /// What was delivered last: its digest, and when it was obtained.
    kept: Mutex<Option<Kept>>,
    complained: AtomicBool,
}

#[derive(Clone, Copy)]
struct Kept {
    digest: [u8; 32],
    obtained_at: SystemTime,
    on_disk: bool,
}

impl<S: CertSource> Saved<S> {
    pub(crate) fn new(source: S, path: PathBuf) -> Self {
        Self {
            source,
            path,
            clock: Clock::default(),
            looked: AtomicBool::new(false),
            spare: Mutex::default(),
            kept: Mutex::default(),
            complained: AtomicBool::new(false),
        }
    }

    #[cfg(test)]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What is saved, if it is to be used now; what may be used later is set aside.
    async fn look(&self, request: CacheKey) -> Option<CertMaterial> {
        let (path, now) = (self.path.clone(), self.clock.now());
        let looked = off_worker(move || {
            let Some(text) = disk::read(&path).map_err(Unfit::Unsafe)? else {
                return Ok::<_, Unfit>(None);
            };
            let saved = SavedCert::parse(&text).map_err(Unfit::Format)?;
            let use_now = is_before_renewal(&saved, request, now)?;
            Ok(Some((saved, use_now)))
        });
        let (saved, use_now) = match looked.await {
            Ok(Ok(found)) => found?,
            Ok(Err(unfit)) => {
                let reason = &unfit as &dyn std::error::Error;
                tracing::info!(path = %self.path.display(), reason, "saved certificate not used");
                return None;
            }
            Err(_shutting_down) => return None,
        };
        if !use_now {
            *lock(&self.spare) = Some(saved);
            return None;
        }
        tracing::info!(path = %self.path.display(), "saved certificate used again");
        self.take(&saved)
    }

    /// A certificate that is past its renewal point but better than none.
    fn spare(&self) -> Option<CertMaterial> {
        let saved = lock(&self.spare).take()?;
        // It may have expired since it was looked at.
        is_before_renewal(&saved, saved.cache_key(), self.clock.now()).ok()?;
        tracing::warn!(
            path = %self.path.display(),
            "the source cannot be reached; saved certificate used again past its renewal point"
        );
        self.take(&saved)
    }

    fn take(&self, saved: &SavedCert) -> Option<CertMaterial> {
        let material = saved.to_material().ok()?;
        *lock(&self.kept) = Some(Kept {
            digest: material.digest(),
            obtained_at: saved.obtained_at(),
            on_disk: true,
        });
        Some(material)
    }

    /// Dates what was fetched, and saves it unless that was done.
    async fn keep(&self, material: CertMaterial, request: CacheKey) -> CertMaterial {
        let digest = material.digest();
        // The same again is as old as it was: its renewal point stays where it is.
        let before = lock(&self.kept).filter(|kept| kept.digest == digest);
        let obtained_at = match (before, material.when_obtained()) {
            (Some(kept), _) => kept.obtained_at,
            (None, Some(at)) => at,
            (None, None) => self.clock.now(),
        };
        let material = material.obtained_at(obtained_at);
        let on_disk = match before {
            Some(Kept { on_disk: true, .. }) => true,
            _ => self.save(&material, request, obtained_at).await,
        };
        *lock(&self.kept) = Some(Kept {
            digest,
            obtained_at,
            on_disk,
        });
        material
    }

    /// Whether it could be saved.
    async fn save(&self, material: &CertMaterial, request: CacheKey, at: SystemTime) -> bool {
        let Some(saved) = SavedCert::of(material, request, at) else {
            self.complain("its key stays in a device", None);
            return false;
        };
        let path = self.path.clone();
        match off_worker(move || disk::write(&path, saved.render().as_bytes())).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                self.complain("the file cannot be written", Some(&error));
                false
            }
            Err(_shutting_down) => false,
        }
    }

    /// Warns once: what is in memory is good, and the next start asks the source.
    fn complain(&self, problem: &str, error: Option<&std::io::Error>) {
        if self.complained.swap(true, Ordering::Relaxed) {
            return;
        }
        let error = error.map(tracing::field::display);
        tracing::warn!(path = %self.path.display(), problem, error, "certificate not saved");
    }
}

/// Why what was saved is not used.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("the file is not safe to use")]
    Unsafe(#[source] disk::Unsafe),
    #[error("the file is no saved certificate")]
    Format(#[source] SavedCertError),
    #[error("it was asked for in another way")]
    OtherRequest,
    #[error("it was obtained in the future, by our clock")]
    FromTheFuture,
    #[error("there is no crypto provider here to check it with")]
    NoProvider,
    #[error("it does not pass the checks")]
    Material(#[source] MaterialError),
}

/// Whether the renewal point lies ahead; an error if it must not be used at all.
///
/// Makes the same checks as the renewer, which does not ask again at a start that fails.
fn is_before_renewal(saved: &SavedCert, request: CacheKey, now: SystemTime) -> Result<bool, Unfit> {
    if saved.cache_key() != request {
        return Err(Unfit::OtherRequest);
    }
    if saved.obtained_at() > now {
        return Err(Unfit::FromTheFuture);
    }
    let provider = default_provider().ok_or(Unfit::NoProvider)?;
    let tls = TlsPolicy::new(provider, TlsSettings::new());
    let tls = tls.map_err(|_no_tls_13| Unfit::NoProvider)?;
    let material = saved.to_material().map_err(Unfit::Material)?;
    let snapshot =
        Snapshot::build(&Arc::new(material), None, now, &tls).map_err(Unfit::Material)?;
    // By the default policy; under another one the renewer may ask for a newer one at once.
    let point =
        RenewalSchedule::new().renewal_point(&snapshot.usable_lifetime(), snapshot.leaf_sha256());
    Ok(point.is_ok_and(|point| now < point))
}

impl<S: CertSource> CertSource for Saved<S> {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        let Some(request) = self.source.cache_key() else {
            self.complain("the source does not say what it asks for", None);
            return self.source.fetch(context).await;
        };
        if context.reason == FetchReason::Start
            && !self.looked.swap(true, Ordering::Relaxed)
            && let Some(material) = self.look(request).await
        {
            return Ok(material.into());
        }
        match self.source.fetch(context).await {
            Ok(Fetched::Certificate(material)) => Ok(self.keep(material, request).await.into()),
            Ok(roots) => Ok(roots),
            Err(error) if error.is_transient() && context.current.is_none() => {
                self.spare().map(Fetched::from).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn changed(&self) {
        self.source.changed().await;
    }

    fn cache_key(&self) -> Option<CacheKey> {
        self.source.cache_key()
    }
}

impl<S: fmt::Debug> fmt::Debug for Saved<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved")
            .field("source", &self.source)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
