//! What a pool is made of, and what of it is to be replaced.

use std::sync::Arc;
use std::time::SystemTime;

use super::Rotation;
use crate::pool::retirement::is_to_be_replaced;
use crate::pool::slot::{Slot, Whereabouts};
use crate::pool::status::PoolStatus;

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
            spares: self.shelf.ready(newest),
            replacing: self.dialer.signals.replacing(),
            retired: counts.retired,
            connect_errors: counts.connect_errors,
            refused_generation: self.dialer.standing.refused_generation(),
            last_error: counts.last_error,
            ..PoolStatus::default()
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
                Whereabouts::Parked { fit } if is_to_be_replaced(old, fit, driver.age()) => {
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
