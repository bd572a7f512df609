//! What is done while nothing rotates: pings, and the end of what has expired.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::Rotation;
use crate::pool::metrics;
use crate::pool::session::{Answer, Driver};
use crate::pool::slot::{Slot, Whereabouts};
use crate::pool::status::RetireReason;

/// How long an idle session may take to answer an empty query.
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the answers of those that are to be closed are looked for.
const LOOK_AGAIN_FOR_ANSWERS: Duration = Duration::from_millis(50);

/// How often the pool is looked over; sooner where a certificate expires before.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest wait between two looks, for what a clock's tick leaves over.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(5);

/// Idle sessions that are closed as soon as nothing runs on them.
///
/// A row stream can be read on after its connection went back: it holds back the answer to a ping.
/// Until that has come, nobody gets the session any more, and it counts as in use.
#[derive(Default)]
pub(super) struct Closing(Vec<(Arc<Slot>, Arc<Driver>, Answer)>);

impl Closing {
    /// Begins with a session, if it is parked.
    pub(super) fn add(&mut self, slot: Arc<Slot>) {
        if let Some((driver, answer)) = slot.last_ping() {
            self.0.push((slot, driver, answer));
        }
    }

    /// Closes those that have answered.
    pub(super) fn close_idle(&mut self, mut closed: impl FnMut(&Driver)) {
        self.0.retain_mut(|(slot, driver, answer)| {
            let has_answered = answer.now_or_never().is_some();
            if has_answered && slot.cut_if_parked(driver) {
                closed(driver);
            }
            !has_answered && !driver.is_finished()
        });
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rotation {
    pub(super) async fn look_after(&self) {
        tokio::join!(self.end_expired(), self.ping_quiet());
    }

    /// Closes idle sessions whose certificate has expired, and those in use past the hard limit.
    async fn end_expired(&self) {
        let mut closing = Closing::default();
        loop {
            let now = self.dialer.live.now();
            self.shelf.end_expired(now);
            let mut wait = if closing.is_empty() {
                LOOK_EVERY
            } else {
                LOOK_AGAIN_FOR_ANSWERS
            };
            let mut left_of = |end: SystemTime| {
                let left = end.duration_since(now).unwrap_or_default();
                if !left.is_zero() {
                    wait = wait.min(left);
                }
                left
            };
            let mut in_use = self.dialer.leaving.open();
            let mut expired = Vec::new();
            for slot in self.slots() {
                let driver = slot.driver();
                if driver.is_finished() {
                    continue;
                }
                if slot.whereabouts() != (Whereabouts::Parked { fit: true }) {
                    in_use.push(driver);
                } else if left_of(driver.snapshot.not_after()).is_zero() {
                    expired.push(slot);
                }
            }
            in_use.retain(|driver| {
                let limit = self.hard_limit;
                let end = limit.and_then(|limit| driver.snapshot.not_after().checked_add(limit));
                end.is_some_and(|end| left_of(end).is_zero())
            });
            if !expired.is_empty() {
                wait = LOOK_AGAIN_FOR_ANSWERS;
            }
            expired.into_iter().for_each(|slot| closing.add(slot));
            closing.close_idle(|driver| {
                self.dialer.signals.retired(driver, RetireReason::Expired);
                self.wake.notify_one();
            });
            let in_use = in_use
                .iter()
                .map(|driver| self.end_in_use(driver, RetireReason::HardLimit));
            join_all(in_use).await;
            if let Some(newest) = self.newest() {
                metrics::made_of(self.dialer.signals.name(), newest, || self.status());
            }
            tokio::time::sleep(wait.max(LOOK_AT_MOST_EVERY)).await;
        }
    }

    async fn ping_quiet(&self) {
        loop {
            let mut pings = self.shelf.ping_quiet(self.idle_ping);
            for slot in self.slots() {
                let driver = slot.driver();
                if let Some(answer) = slot.ping_if_quiet_for(self.idle_ping) {
                    pings.push((driver, answer));
                }
                if slot.whereabouts() == (Whereabouts::Parked { fit: false }) {
                    // One that died young may be old enough by now.
                    self.wake.notify_one();
                }
            }
            let answers = pings.into_iter().map(|(asked, answer)| async move {
                if timeout(PING_TIMEOUT, answer).await != Ok(true) {
                    self.give_up_silent(&asked);
                }
            });
            join_all(answers).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A session that does not answer is given up, not cut: a stream may still be read from it.
    fn give_up_silent(&self, driver: &Driver) {
        driver.give_up();
        tracing::debug!(
            pool = self.dialer.signals.name(),
            generation = driver.snapshot.generation(),
            "an idle connection does not answer"
        );
        self.wake.notify_one();
    }
}
