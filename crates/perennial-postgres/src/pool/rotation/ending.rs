//! Retiring on demand, and the end of sessions that are in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};

use super::Rotation;
use super::upkeep::Closing;
use crate::pool::dialer::after;
use crate::pool::session::Driver;
use crate::pool::slot::Slot;
use crate::pool::status::{Drained, Retire, RetireReason, Retired};

/// How long a cancelled query may take to end before its connection is closed.
pub const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// How long a gently retired connection is given to say good-bye before it counts as left.
const SETTLE: Duration = Duration::from_millis(200);

/// How often those who wait for returns look.
const LOOK: Duration = Duration::from_millis(20);

impl Rotation {
    pub(crate) async fn retire_now(&self, how: Retire) -> Retired {
        let generation = self.newest().unwrap_or_default();
        let before = self.older_than(generation).len();
        let mut retired = self.dialer.signals.retired_so_far();
        let end = self.dialer.deadline();
        self.hurry_to.fetch_max(generation, Ordering::Relaxed);
        if how == Retire::Immediately {
            self.dialer.standing.allow_from(generation);
            self.cut_parked_older_than(generation);
            let in_use = self.older_than(generation);
            let ended = in_use
                .iter()
                .map(|driver| self.end_in_use(driver, RetireReason::Asked));
            join_all(ended).await;
        }
        self.afresh.notify_one();
        // Until the idle ones are replaced, or that has taken as long as a connect may.
        while !self.survey(generation).parked.is_empty() {
            let looked = timeout(LOOK, retired.changed());
            if timeout_at(end, looked).await.is_err() {
                break;
            }
        }
        // What has only to say good-bye does so meanwhile.
        let settled = Instant::now() + SETTLE;
        let is_leaving = |driver: &Arc<Driver>| driver.snapshot.generation() < generation;
        while self.dialer.leaving.open().iter().any(is_leaving) && Instant::now() < settled {
            tokio::time::sleep(LOOK).await;
        }
        let left = self.older_than(generation).len();
        Retired {
            generation,
            retired: before.saturating_sub(left),
            left,
        }
    }

    fn cut_parked_older_than(&self, newest: u64) {
        for slot in self.slots() {
            let driver = slot.driver();
            if driver.snapshot.generation() < newest && slot.cut_if_parked(&driver) {
                self.dialer.signals.retired(&driver, RetireReason::Asked);
            }
        }
    }

    /// Cancels what runs, gives it a moment to end, and closes the connection.
    pub(super) async fn end_in_use(&self, driver: &Driver, reason: RetireReason) {
        driver.give_up();
        self.dialer.signals.retired(driver, reason);
        let end = Instant::now() + CANCEL_GRACE;
        // The connection is closed whatever comes of it.
        let _asked = timeout_at(end, self.dialer.cancel(&driver.cancel)).await;
        while !driver.is_finished() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        driver.cut();
    }

    pub(crate) async fn drain(&self, deadline: Duration) -> Drained {
        self.draining.store(true, Ordering::Relaxed);
        self.afresh.notify_one();
        let end = after(deadline);
        let mut closing = Closing::default();
        loop {
            self.shelf.clear();
            for slot in self.slots() {
                closing.add(slot);
            }
            closing.close_idle(|driver| {
                self.dialer.signals.retired(driver, RetireReason::Asked);
            });
            let left = self.open();
            if left == 0 || Instant::now() >= end {
                return Drained { left };
            }
            tokio::time::sleep(LOOK.min(end - Instant::now())).await;
        }
    }

    /// Every session that is still open, wherever it is.
    fn open(&self) -> usize {
        let open = |slot: &Arc<Slot>| !slot.driver().is_finished();
        self.slots().iter().filter(|slot| open(slot)).count() + self.dialer.leaving.open().len()
    }

    /// Sessions of older generations that are open and not about to be closed, wherever they are.
    fn older_than(&self, newest: u64) -> Vec<Arc<Driver>> {
        let mut older: Vec<_> = self.slots().iter().map(|slot| slot.driver()).collect();
        older.extend(self.dialer.leaving.open());
        older.retain(|driver| {
            driver.snapshot.generation() < newest && !driver.is_finished() && !driver.is_cut()
        });
        older
    }
}
