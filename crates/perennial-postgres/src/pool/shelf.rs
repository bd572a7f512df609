use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::pool::session::{Answer, Driver, Session};

/// Spares: sessions that are ready and wait for an old one to be exchanged.
///
/// They never stand in a pool's slot, so endless transactions cannot block a rotation.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Vec<Spare>>);

#[derive(Debug)]
struct Spare {
    session: Session,
    /// When it was put here or last pinged.
    quiet_since: Instant,
}

impl Shelf {
    pub(crate) fn put(&self, session: Session) {
        self.lock().push(Spare {
            session,
            quiet_since: Instant::now(),
        });
    }

    /// A spare of this generation that is fit.
    pub(crate) fn take(&self, generation: u64) -> Option<Session> {
        let (taken, unfit) = {
            let mut spares = self.lock();
            let unfit = remove_unfit(&mut spares, generation);
            (spares.pop(), unfit)
        };
        drop(unfit);
        taken.map(|spare| spare.session)
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

    /// Says good-bye to those whose certificate has expired.
    pub(crate) fn end_expired(&self, now: SystemTime) {
        let expired: Vec<_> = {
            let has_expired = |spare: &mut Spare| now >= spare.session.driver.snapshot.not_after();
            self.lock().extract_if(.., has_expired).collect()
        };
        drop(expired);
    }

    /// Pings those that have been quiet for so long; what is returned waits for the answers.
    pub(crate) fn ping_quiet(&self, quiet: Duration) -> Vec<(Arc<Driver>, Answer)> {
        let mut pings = Vec::new();
        for spare in &mut *self.lock() {
            if spare.quiet_since.elapsed() >= quiet {
                spare.quiet_since = Instant::now();
                pings.push((Arc::clone(&spare.session.driver), spare.session.ping()));
            }
        }
        pings
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves out what is unfit or of another generation, to be dropped outside the lock.
fn remove_unfit(spares: &mut Vec<Spare>, generation: u64) -> Vec<Spare> {
    spares
        .extract_if(.., |Spare { session, .. }| {
            session.generation() != generation || !session.is_fit()
        })
        .collect()
}
