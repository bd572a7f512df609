//! What is done while nothing rotates: pings, and the end of what has expired.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::Rotation;
use crate::pool::metrics;
use crate::pool::retirement::ends_at;
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

/// A session that must end.
struct Due {
    driver: Arc<Driver>,
    /// Its place, if it is idle; else it is in use.
    idle_in: Option<Arc<Slot>>,
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
            let (due, next) = self.due(now);
            let mut overdue = Vec::new();
            for session in due {
                match session.idle_in {
                    Some(slot) => closing.add(slot),
                    None => overdue.push(session.driver),
                }
            }
            closing.close_idle(|driver| {
                self.dialer.signals.retired(driver, RetireReason::Expired);
                self.wake.notify_one();
            });
            let ended = overdue
                .iter()
                .map(|driver| self.end_in_use(driver, RetireReason::HardLimit));
            join_all(ended).await;
            if let Some(newest) = self.newest() {
                metrics::made_of(self.dialer.signals.name(), newest, || self.status());
            }
            let longest = if closing.is_empty() {
                LOOK_EVERY
            } else {
                LOOK_AGAIN_FOR_ANSWERS
            };
            tokio::time::sleep(next.clamp(LOOK_AT_MOST_EVERY, longest)).await;
        }
    }

    /// The sessions that must end now, and how long it is until the next one must.
    fn due(&self, now: SystemTime) -> (Vec<Due>, Duration) {
        let leaving = self.dialer.leaving.open();
        let leaving = leaving.into_iter().map(|driver| Due {
            driver,
            idle_in: None,
        });
        let placed = self.slots().into_iter().map(|slot| {
            let idle = slot.whereabouts() == (Whereabouts::Parked { fit: true });
            Due {
                driver: slot.driver(),
                idle_in: idle.then_some(slot),
            }
        });
        let (mut due, mut next) = (Vec::new(), LOOK_EVERY);
        for session in leaving.chain(placed) {
            let not_after = session.driver.snapshot.not_after();
            match ends_at(session.idle_in.is_none(), not_after, self.hard_limit) {
                Some(end) if !session.driver.is_finished() => match end.duration_since(now) {
                    Ok(left) if !left.is_zero() => next = next.min(left),
                    _ => due.push(session),
                },
                _ => {}
            }
        }
        (due, next)
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
