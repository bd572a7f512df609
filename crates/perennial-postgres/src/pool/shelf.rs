use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pool::session::Session;

/// Spares: sessions that are ready and wait for an old one to be exchanged.
///
/// They never stand in a pool's slot, so endless transactions cannot block a rotation.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Vec<Session>>);

impl Shelf {
    pub(crate) fn put(&self, spare: Session) {
        self.lock().push(spare);
    }

    /// A spare of this generation that is still open.
    pub(crate) fn take(&self, generation: u64) -> Option<Session> {
        let (taken, unfit) = {
            let mut spares = self.lock();
            let unfit = remove_unfit(&mut spares, generation);
            (spares.pop(), unfit)
        };
        drop(unfit);
        taken
    }

    /// How many spares of this generation stand ready.
    pub(crate) fn ready(&self, generation: u64) -> usize {
        let (ready, unfit) = {
            let mut spares = self.lock();
            let unfit = remove_unfit(&mut spares, generation);
            (spares.len(), unfit)
        };
        drop(unfit);
        ready
    }

    pub(crate) fn clear(&self) {
        let spares = std::mem::take(&mut *self.lock());
        drop(spares);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves out what is unfit or of another generation, to be dropped outside the lock.
fn remove_unfit(spares: &mut Vec<Session>, generation: u64) -> Vec<Session> {
    spares
        .extract_if(.., |spare| {
            spare.generation() != generation || !spare.is_fit()
        })
        .collect()
}
