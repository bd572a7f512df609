//! Maintenance of connections that no rotation moves: pings, and the end of expired ones.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::pool::cancel::end_in_use;
use crate::pool::observe::RetireReason;
use crate::pool::policy::outlives_certificate;
use crate::pool::retire::Closing;
use crate::pool::session::{Driver, Ping};
use crate::pool::slot::Place;
use crate::pool::state::PoolState;

/// How long an idle session may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the pool is looked over; sooner if a certificate expires earlier.
const INTERVAL: Duration = Duration::from_secs(1);

/// The shortest wait between two looks, which the granularity of a clock may ask for.
const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// The wait between two looks while sessions are closing.
const CLOSING_INTERVAL: Duration = Duration::from_millis(50);

/// Closes idle sessions whose certificate has expired, and those in use past the hard limit.
///
/// Only where that is sure: a wall clock that is wrong for seconds must not close a whole pool.
pub(crate) async fn close_expired(state: &PoolState) {
    let mut closing = Closing::default();
    loop {
        let now = state.live.now();
        let mut next = INTERVAL;
        let mut must_end = |driver: &Driver, in_use: bool| {
            let Some(outlives) = outlives_certificate(in_use, state.settings.hard_limit) else {
                return false;
            };
            let snapshot = &driver.snapshot;
            let left = match state.live.surely_ended_for(snapshot) {
                None => snapshot.remaining(now).saturating_add(outlives),
                Some(ended_for) => match outlives.saturating_sub(ended_for) {
                    Duration::ZERO => return true,
                    left => left,
                },
            };
            // Zero where the clocks do not agree: the next look may be as late as any.
            if !left.is_zero() {
                next = next.min(left);
            }
            false
        };
        let mut in_use = state.draining();
        in_use.retain(|driver| must_end(driver, true));
        for (slot, driver) in state.open_slots() {
            let is_parked = matches!(slot.place(), Place::Parked { .. });
            // One that is closing still has to answer: until then it counts as in use.
            let is_idle = is_parked && !closing.contains(&driver);
            match must_end(&driver, !is_idle) {
                true if is_idle => closing.add(slot),
                true => in_use.push(driver),
                false => {}
            }
        }
        state.spares.close_expired(&state.live);
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
        if !closing.is_empty() {
            next = next.min(CLOSING_INTERVAL);
        }
        sleep(next.max(MIN_INTERVAL)).await;
    }
}

/// Pings idle sessions, and replaces those that do not answer.
///
/// An answer also brings what has changed at the server. Once one session has learned that its server
/// has another role, every idle one is pinged at once.
pub(crate) async fn ping_quiet(state: &PoolState) {
    let mut quiet = state.settings.idle_ping;
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
        let role_changed = timeout(INTERVAL, state.role_changed.notified()).await;
        quiet = role_changed.map_or(state.settings.idle_ping, |()| Duration::ZERO);
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
