//! Maintenance of connections that no rotation moves: pings, and the end of expired ones.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::pool::observe::RetireReason;
use crate::pool::policy::ends_at;
use crate::pool::retire::{Closing, end_in_use};
use crate::pool::session::{Driver, Ping};
use crate::pool::slot::{Place, Slot};
use crate::pool::state::PoolState;

/// How long an idle session may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the pool is looked over; sooner if a certificate expires earlier.
const INTERVAL: Duration = Duration::from_secs(1);

/// The shortest wait between two looks, which the granularity of a clock may ask for.
const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// The wait between two looks while sessions are closing.
const CLOSING_INTERVAL: Duration = Duration::from_millis(50);

/// A session that must end.
struct DueSession {
    driver: Arc<Driver>,
    /// Its slot, if it is idle.
    idle_in: Option<Arc<Slot>>,
}

/// Closes idle sessions whose certificate has expired, and those in use past the hard limit.
pub(crate) async fn close_expired(state: &PoolState) {
    let mut closing = Closing::default();
    loop {
        let now = state.live.now();
        state.spares.close_expired(now);
        let (due, next) = due(state, now);
        let mut in_use = Vec::new();
        for session in due {
            match session.idle_in {
                Some(slot) => closing.add(slot),
                None => in_use.push(session.driver),
            }
        }
        if closing.close_idle(state, RetireReason::Expired) {
            state.wake.notify_one();
        }
        let ends = in_use
            .iter()
            .map(|driver| end_in_use(state, driver, RetireReason::HardLimit));
        join_all(ends).await;
        if let Some(newest) = state.newest() {
            state.observer.gauges(newest, &state.status());
        }
        let longest = if closing.is_empty() {
            INTERVAL
        } else {
            CLOSING_INTERVAL
        };
        sleep(next.clamp(MIN_INTERVAL, longest)).await;
    }
}

/// The sessions that must end now, and the time until the next one must.
fn due(state: &PoolState, now: SystemTime) -> (Vec<DueSession>, Duration) {
    let draining = state.draining().into_iter().map(|driver| DueSession {
        driver,
        idle_in: None,
    });
    let in_slots = state.open_slots().into_iter().map(|(slot, driver)| {
        let is_idle = slot.place() == (Place::Parked { usable: true });
        DueSession {
            driver,
            idle_in: is_idle.then_some(slot),
        }
    });
    let (mut due, mut next) = (Vec::new(), INTERVAL);
    for session in draining.chain(in_slots) {
        let not_after = session.driver.snapshot.not_after();
        let in_use = session.idle_in.is_none();
        let Some(end) = ends_at(in_use, not_after, state.settings.hard_limit) else {
            continue;
        };
        match end.duration_since(now) {
            Ok(left) if !left.is_zero() => next = next.min(left),
            _ => due.push(session),
        }
    }
    (due, next)
}

/// Pings idle sessions, and replaces those that do not answer.
pub(crate) async fn ping_quiet(state: &PoolState) {
    let quiet = state.settings.idle_ping;
    loop {
        let mut pings = state.spares.ping_quiet(quiet);
        for slot in state.slots() {
            pings.extend(slot.ping_if_quiet_for(quiet));
            if slot.place() == (Place::Parked { usable: false }) {
                // By now it may be old enough to be replaced.
                state.wake.notify_one();
            }
        }
        join_all(pings.into_iter().map(|ping| answer(state, ping))).await;
        sleep(INTERVAL).await;
    }
}

/// Waits for the answer, and marks a session that does not answer as unusable.
///
/// Such a session is not closed: a caller may still read a stream from it.
async fn answer(state: &PoolState, ping: Ping) {
    let driver = Arc::clone(&ping.driver);
    if timeout(PING_TIMEOUT, ping.answered()).await == Ok(true) {
        return;
    }
    driver.mark_unusable();
    let (pool, generation) = (state.observer.pool(), driver.generation());
    tracing::debug!(pool, generation, "an idle connection does not answer");
    state.wake.notify_one();
}
