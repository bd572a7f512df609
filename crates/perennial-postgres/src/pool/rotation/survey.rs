//! What a pool is made of, and what of it is to be replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Rotation;
use crate::pool::slot::{Slot, Whereabouts};
use crate::pool::status::PoolStatus;

/// A dead session younger than this is replaced when it is this old.
const DIED_YOUNG: Duration = Duration::from_secs(1);

/// What is to be replaced, counted at one moment.
#[derive(Default)]
pub(super) struct Survey {
    /// Idle, and older than the newest generation or unfit.
    pub(super) parked: Vec<Arc<Slot>>,
    /// Older ones that are checked out and will come back.
    pub(super) claimed: usize,
    /// When the first certificate among the parked old ones expires.
    pub(super) first_expiry: Option<SystemTime>,
}

impl Rotation {
    pub(crate) fn status(&self) -> PoolStatus {
        let counts = self.dialer.signals.counts();
        let newest = self.newest().unwrap_or_default();
        let now = self.dialer.live.now();
        let mut status = PoolStatus {
            by_generation: BTreeMap::new(),
            old_in_use: 0,
            expired_in_use: 0,
            leaving: 0,
            oldest_not_after: None,
            spares: self.shelf.ready(newest),
            replacing: self.dialer.signals.replacing(),
            retired: counts.retired,
            connect_errors: counts.connect_errors,
            refused_generation: self.dialer.standing.refused_generation(),
            last_error: counts.last_error,
        };
        for slot in self.slots() {
            let driver = slot.driver();
            if driver.is_finished() {
                continue;
            }
            let snapshot = &driver.snapshot;
            let not_after = snapshot.not_after();
            *status
                .by_generation
                .entry(snapshot.generation())
                .or_default() += 1;
            let oldest = status.oldest_not_after.get_or_insert(not_after);
            *oldest = not_after.min(*oldest);
            // One that is parked and unfit is waiting for an answer, behind a stream perhaps.
            if slot.whereabouts() != (Whereabouts::Parked { fit: true }) {
                status.old_in_use += usize::from(snapshot.generation() < newest);
                status.expired_in_use += usize::from(now >= not_after);
            }
        }
        for driver in self.dialer.leaving.open() {
            let not_after = driver.snapshot.not_after();
            status.leaving += 1;
            status.expired_in_use += usize::from(now >= not_after);
            let oldest = status.oldest_not_after.get_or_insert(not_after);
            *oldest = not_after.min(*oldest);
        }
        status
    }

    pub(super) fn survey(&self, newest: u64) -> Survey {
        let mut survey = Survey::default();
        for slot in self.slots() {
            let driver = slot.driver();
            let snapshot = &driver.snapshot;
            let old = snapshot.generation() < newest;
            match slot.whereabouts() {
                // A server that accepts and closes at once is not to be connected to in a loop.
                Whereabouts::Parked { fit: false } if !old && driver.age() < DIED_YOUNG => {}
                Whereabouts::Parked { fit } if old || !fit => {
                    survey.parked.push(slot);
                    if fit {
                        let expiry = snapshot.not_after();
                        let first = survey.first_expiry.get_or_insert(expiry);
                        *first = expiry.min(*first);
                    }
                }
                Whereabouts::Claimed if old => survey.claimed += 1,
                _ => {}
            }
        }
        survey
    }
}
