//! Which certificates a server takes, and which to connect with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use perennial::Snapshot;

use crate::pool::retirement::serves_instead;

/// Which certificates this server takes, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Standing(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The newest that has logged in.
    proven: Option<Arc<Snapshot>>,
    /// The newest that was refused and has not logged in since.
    refused: Option<u64>,
    /// Nothing older is ever connected with again.
    oldest_allowed: u64,
}

impl Standing {
    /// The newest generation that is refused at present.
    pub(crate) fn refused_generation(&self) -> Option<u64> {
        self.known().refused
    }

    /// Never goes back to what is older than this: its key may have leaked.
    pub(crate) fn allow_from(&self, generation: u64) {
        let mut known = self.known();
        known.oldest_allowed = known.oldest_allowed.max(generation);
    }

    /// What to connect with now, in place of `newest` if that is refused.
    pub(crate) fn best(&self, newest: Arc<Snapshot>, now: SystemTime) -> Arc<Snapshot> {
        self.instead_of(&newest, now).unwrap_or(newest)
    }

    pub(crate) fn logged_in(&self, snapshot: &Arc<Snapshot>) {
        let mut known = self.known();
        let generation = snapshot.generation();
        if known.refused.is_some_and(|refused| refused <= generation) {
            known.refused = None;
        }
        let newer = |proven: &Arc<Snapshot>| generation > proven.generation();
        if known.proven.as_ref().is_none_or(newer) {
            known.proven = Some(Arc::clone(snapshot));
        }
    }

    /// `true` if this is news.
    pub(crate) fn refused(&self, generation: u64) -> bool {
        let mut known = self.known();
        let news = known.refused.is_none_or(|refused| refused < generation);
        if news {
            known.refused = Some(generation);
        }
        news
    }

    /// What to connect with while `newest` is refused: what has logged in before and is valid.
    pub(crate) fn instead_of(&self, newest: &Snapshot, now: SystemTime) -> Option<Arc<Snapshot>> {
        let known = self.known();
        let proven = known.proven.as_ref()?;
        let serves = serves_instead(
            newest.generation(),
            known.refused?,
            proven.generation(),
            known.oldest_allowed,
        );
        (serves && now < proven.not_after()).then(|| Arc::clone(proven))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
