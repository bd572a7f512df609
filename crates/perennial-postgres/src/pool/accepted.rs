use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::{LiveCert, Snapshot};

use crate::pool::policy::may_fall_back;

/// Which certificates the server accepts, as far as the pool knows.
#[derive(Debug, Default)]
pub(crate) struct AcceptedCerts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The newest that has logged in.
    accepted: Option<Arc<Snapshot>>,
    /// The newest generation that was refused and has not logged in since.
    refused: Option<u64>,
    /// The pool never connects with an older generation again.
    oldest_allowed: u64,
}

impl AcceptedCerts {
    pub(crate) fn refused_generation(&self) -> Option<u64> {
        self.known().refused
    }

    /// Forbids every generation older than this one: its key may have leaked.
    pub(crate) fn forbid_older_than(&self, generation: u64) {
        let mut known = self.known();
        known.oldest_allowed = known.oldest_allowed.max(generation);
    }

    /// Whether the pool may still connect with this generation.
    pub(crate) fn allows(&self, generation: u64) -> bool {
        generation >= self.known().oldest_allowed
    }

    /// Records a login with this certificate.
    pub(crate) fn logged_in(&self, snapshot: &Arc<Snapshot>) {
        let mut known = self.known();
        let generation = snapshot.generation();
        known.refused = known.refused.filter(|refused| *refused > generation);
        let is_older = |known: &Arc<Snapshot>| known.generation() < generation;
        if known.accepted.as_ref().is_none_or(is_older) {
            known.accepted = Some(Arc::clone(snapshot));
        }
    }

    /// Records a refusal; `true` unless this or a newer generation is refused already.
    pub(crate) fn refused(&self, generation: u64) -> bool {
        let mut known = self.known();
        let is_news = known.refused.is_none_or(|refused| refused < generation);
        if is_news {
            known.refused = Some(generation);
        }
        is_news
    }

    /// What to connect with while `newest` is refused: the newest that was accepted, while valid.
    pub(crate) fn instead_of(&self, newest: &Snapshot, live: &LiveCert) -> Option<Arc<Snapshot>> {
        let known = self.known();
        let accepted = known.accepted.as_ref()?;
        let falls_back = may_fall_back(
            newest.generation(),
            known.refused?,
            accepted.generation(),
            known.oldest_allowed,
        );
        (falls_back && !live.has_ended(accepted)).then(|| Arc::clone(accepted))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
