//! What is done while nothing rotates: pings, and the end of what has expired.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::Rotation;
use crate::pool::metrics;
use crate::pool::slot::{Slot, Whereabouts};
use crate::pool::status::RetireReason;

/// How long an idle session may take to answer an empty query.
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the pool is looked over; sooner where a certificate expires before.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest wait between two looks, for what a clock's tick leaves over.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(5);

impl Rotation {
    pub(super) async fn look_after(&self) {
        tokio::join!(self.end_expired(), self.ping_quiet());
    }

    /// Closes idle sessions whose certificate has expired, and those in use past the hard limit.
    async fn end_expired(&self) {
        loop {
            let now = self.dialer.live.now();
            let mut wait = LOOK_EVERY;
            let mut overdue = Vec::new();
            for slot in self.slots() {
                let driver = slot.driver();
                let in_use = !matches!(slot.whereabouts(), Whereabouts::Parked { .. });
                let grace = match (in_use, self.hard_limit) {
                    (false, _) => Duration::ZERO,
                    (true, Some(limit)) => limit,
                    (true, None) => continue,
                };
                if driver.is_finished() {
                    continue;
                }
                let end = driver.snapshot.not_after() + grace;
                match end.duration_since(now) {
                    Ok(left) if !left.is_zero() => wait = wait.min(left),
                    _ if in_use => overdue.push(driver),
                    _ => {
                        driver.cut();
                        self.dialer.signals.retired(&driver, RetireReason::Expired);
                        self.wake.notify_one();
                    }
                }
            }
            let ended = overdue
                .iter()
                .map(|driver| self.end_in_use(driver, RetireReason::HardLimit));
            join_all(ended).await;
            if let Some(newest) = self.newest() {
                metrics::made_of(self.dialer.signals.name(), newest, || self.status());
            }
            tokio::time::sleep(wait.max(LOOK_AT_MOST_EVERY)).await;
        }
    }

    async fn ping_quiet(&self) {
        loop {
            let pings = self.slots().into_iter().filter_map(|slot| {
                let answer = slot.ping_if_quiet_for(self.idle_ping)?;
                Some(self.await_answer(slot, answer))
            });
            join_all(pings).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A session that does not answer is given up, not cut: a stream may still be read from it,
    /// which holds the answer back.
    async fn await_answer(&self, slot: Arc<Slot>, answer: impl Future<Output = bool>) {
        let asked = slot.driver();
        if timeout(PING_TIMEOUT, answer).await != Ok(true) {
            asked.give_up();
            tracing::debug!(
                pool = self.dialer.signals.name(),
                generation = asked.snapshot.generation(),
                "an idle connection does not answer"
            );
            self.wake.notify_one();
        }
    }
}
