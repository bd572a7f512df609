//! Retires connections on request, and ends sessions that are in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::pool::cancel::end_in_use;
use crate::pool::observe::RetireReason;
use crate::pool::rotate::survey;
use crate::pool::session::{Driver, Ping};
use crate::pool::slot::Slot;
use crate::pool::state::{PoolState, instant_after};

/// How long a retired connection has to close before it counts as left.
const TIME_TO_CLOSE: Duration = Duration::from_millis(200);

/// How often a waiting call looks at the pool again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Exchanges older idle sessions at once, and returns how many older sessions are left.
pub(crate) async fn retire(state: &PoolState) -> usize {
    let generation = state.newest().unwrap_or_default();
    let end = state.connect_deadline();
    state.urgent_until.fetch_max(generation, Ordering::Relaxed);
    state.restart.notify_one();
    while !survey(state, generation).parked.is_empty() && Instant::now() < end {
        sleep(LOOK_AGAIN).await;
    }
    let end = Instant::now() + TIME_TO_CLOSE;
    let is_older = |driver: &Arc<Driver>| driver.generation() < generation;
    while state.draining().iter().any(is_older) && Instant::now() < end {
        sleep(LOOK_AGAIN).await;
    }
    // In this order: a connect that is given up in between is found among the draining ones.
    let connecting = state.in_flight.older_than(generation);
    connecting + older_than(state, generation).len()
}

/// Closes all older sessions, and returns how many are left.
pub(crate) async fn retire_immediately(state: &PoolState) -> usize {
    let generation = state.newest().unwrap_or_default();
    state.urgent_until.fetch_max(generation, Ordering::Relaxed);
    state.accepted.forbid_older_than(generation);
    state.in_flight.cut_older_than(generation);
    for (slot, driver) in state.open_slots() {
        if driver.generation() < generation && slot.abort_if_parked(&driver) {
            state.retire(&driver, RetireReason::Requested);
        }
    }
    let in_flight = async {
        // Each begins again; a session that it has made is among the draining ones then.
        let end = Instant::now() + TIME_TO_CLOSE;
        while state.in_flight.older_than(generation) > 0 && Instant::now() < end {
            sleep(LOOK_AGAIN).await;
        }
        end_older_than(state, generation).await;
    };
    tokio::join!(end_older_than(state, generation), in_flight);
    retire(state).await
}

/// Ends the older sessions that are in use.
async fn end_older_than(state: &PoolState, generation: u64) {
    let in_use = older_than(state, generation);
    let ends = in_use
        .iter()
        .map(|driver| end_in_use(state, driver, RetireReason::Requested));
    join_all(ends).await;
}

/// Stops handing out connections, closes every one once nothing runs on it, and returns how many
/// are left at the deadline.
pub(crate) async fn drain(state: &PoolState, deadline: Duration) -> usize {
    state.is_draining.store(true, Ordering::Relaxed);
    state.in_flight.cut_older_than(u64::MAX);
    state.restart.notify_one();
    let end = instant_after(deadline);
    let mut closing = Closing::default();
    loop {
        state.spares.clear();
        for slot in state.slots() {
            closing.add(slot);
        }
        closing.close_idle(state, RetireReason::Requested);
        // In this order, as in `retire`.
        let connecting = state.in_flight.older_than(u64::MAX);
        let left = connecting + state.open_sessions().len();
        if left == 0 || Instant::now() >= end {
            return left;
        }
        sleep(LOOK_AGAIN.min(end - Instant::now())).await;
    }
}

/// Idle sessions that are closed as soon as nothing runs on them.
///
/// A caller may still read a row stream after its connection was returned: the stream holds back the
/// answer to a ping. Until the answer arrives, the session is not handed out and counts as in use.
#[derive(Default)]
pub(crate) struct Closing(Vec<(Arc<Slot>, Ping)>);

impl Closing {
    /// Begins to close the session of this slot, if it is parked.
    ///
    /// That includes one that has not answered a ping: nothing else would close it.
    pub(crate) fn add(&mut self, slot: Arc<Slot>) {
        if !self.contains(&slot.driver())
            && let Some(ping) = slot.last_ping()
        {
            self.0.push((slot, ping));
        }
    }

    pub(crate) fn contains(&self, driver: &Arc<Driver>) -> bool {
        self.0
            .iter()
            .any(|(_, ping)| Arc::ptr_eq(&ping.driver, driver))
    }

    /// Closes those that have answered; `true` if there were any.
    pub(crate) fn close_idle(&mut self, state: &PoolState, reason: RetireReason) -> bool {
        let mut closed = false;
        self.0.retain_mut(|(slot, ping)| {
            let is_over = ping.is_over();
            if is_over && slot.abort_if_parked(&ping.driver) {
                state.retire(&ping.driver, reason);
                closed = true;
            }
            !is_over && !ping.driver.is_finished()
        });
        closed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sessions of older generations that are open and not about to close.
fn older_than(state: &PoolState, newest: u64) -> Vec<Arc<Driver>> {
    let mut older = state.open_sessions();
    older.retain(|driver| driver.generation() < newest && !driver.is_aborted());
    older
}
