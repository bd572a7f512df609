//! Retiring on demand, and the end of sessions that are in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};

use super::Rotation;
use crate::pool::cancel::Cancel;
use crate::pool::session::Driver;
use crate::pool::slot::{Slot, Whereabouts};
use crate::pool::status::{Drained, Retire, RetireReason, Retired};

/// How long a cancelled query may take to end before its connection is closed.
pub const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// How often those who wait for returns look.
const LOOK: Duration = Duration::from_millis(20);

impl Rotation {
    pub(crate) async fn retire_now(&self, how: Retire) -> Retired {
        let mut retired = self.dialer.signals.retired_so_far();
        let before = *retired.borrow_and_update();
        let end = self.dialer.deadline();
        let Some(newest) = self.newest() else {
            return Retired {
                retired: 0,
                left: 0,
            };
        };
        self.hurry_to.fetch_max(newest, Ordering::Relaxed);
        if how == Retire::Immediately {
            self.end_older_than(newest).await;
        }
        self.afresh.notify_one();
        // Until the idle ones are replaced, or that has taken as long as a connect may.
        while !self.survey(newest).parked.is_empty() {
            let looked = timeout(LOOK, retired.changed());
            if timeout_at(end, looked).await.is_err() {
                break;
            }
        }
        Retired {
            retired: *retired.borrow() - before,
            left: self.older_than(newest),
        }
    }

    /// Closes every session that is older: idle ones now, those in use after a cancel.
    async fn end_older_than(&self, newest: u64) {
        let mut in_use = Vec::new();
        for slot in self.slots() {
            let driver = slot.driver();
            if driver.snapshot.generation() >= newest || driver.is_retired() {
                continue;
            }
            if matches!(slot.whereabouts(), Whereabouts::Parked { .. }) {
                driver.cut();
                self.dialer.signals.retired(&driver, RetireReason::Asked);
            } else {
                in_use.push(driver);
            }
        }
        let ended = in_use
            .iter()
            .map(|driver| self.end_in_use(driver, RetireReason::Asked));
        join_all(ended).await;
    }

    /// Cancels what runs, gives it a moment to end, and closes the connection.
    pub(super) async fn end_in_use(&self, driver: &Driver, reason: RetireReason) {
        driver.give_up();
        let cancel = Cancel {
            token: driver.cancel.clone(),
            dialer: Arc::clone(&self.dialer),
        };
        let end = Instant::now() + CANCEL_GRACE;
        // The connection is closed whatever comes of it.
        let _asked = timeout_at(end, cancel.cancel_query()).await;
        while !driver.is_finished() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        driver.cut();
        self.dialer.signals.retired(driver, reason);
    }

    pub(crate) async fn drain(&self, deadline: Duration) -> Drained {
        self.draining.store(true, Ordering::Relaxed);
        self.shelf.clear();
        let end = Instant::now() + deadline;
        loop {
            let left = self.in_use();
            if left == 0 || Instant::now() >= end {
                return Drained { left };
            }
            tokio::time::sleep(LOOK.min(end - Instant::now())).await;
        }
    }

    fn in_use(&self) -> usize {
        let in_use = |slot: &Arc<Slot>| !matches!(slot.whereabouts(), Whereabouts::Parked { .. });
        self.slots().iter().filter(|slot| in_use(slot)).count()
    }

    fn older_than(&self, newest: u64) -> usize {
        let older = |slot: &Arc<Slot>| {
            let driver = slot.driver();
            driver.snapshot.generation() < newest && !driver.is_retired()
        };
        self.slots().iter().filter(|slot| older(slot)).count()
    }
}
