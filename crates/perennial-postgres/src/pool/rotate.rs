//! Moves the connections of a pool onto each new generation, and replaces dead ones.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::error::FailureClass;
use crate::pool::connect;
use crate::pool::policy::{
    LONGEST_MOVE, NextStep, Workload, connect_wait, exchange_reason, is_to_be_replaced, next_step,
    replace_wait, time_to_move,
};
use crate::pool::session::Session;
use crate::pool::slot::{Place, Slot};
use crate::pool::state::PoolState;

/// How soon an unfinished rotation looks at the pool again if no return has woken it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is to be replaced, counted at one moment.
#[derive(Default)]
pub(crate) struct Survey {
    /// Idle sessions that are older than the newest generation, unusable, or at a server whose role
    /// has changed.
    pub(crate) parked: Vec<Arc<Slot>>,
    /// The number of sessions that are checked out and to be exchanged when they are returned.
    claimed: usize,
    /// When the first certificate among the idle old ones expires.
    first_expiry: Option<SystemTime>,
}

pub(crate) fn survey(state: &PoolState, newest: u64) -> Survey {
    let mut survey = Survey::default();
    for slot in state.slots() {
        let driver = slot.driver();
        let is_old = driver.generation() < newest;
        let is_outdated = is_old || driver.role_changed();
        match slot.place() {
            Place::Parked { usable } if is_to_be_replaced(is_outdated, usable, driver.age()) => {
                survey.parked.push(slot);
                if usable && is_old {
                    let expiry = driver.snapshot.not_after();
                    let first = survey.first_expiry.get_or_insert(expiry);
                    *first = expiry.min(*first);
                }
            }
            Place::CheckedOut if is_outdated => survey.claimed += 1,
            _ => {}
        }
    }
    survey
}

/// Restarts the rotation for each new generation.
pub(crate) async fn follow_generations(state: &PoolState) {
    let mut rotations = state.live.subscribe();
    while rotations.next().await.is_some() {
        state.restart.notify_one();
    }
}

/// Replaces what is old or dead whenever it is woken.
pub(crate) async fn replace(state: &Arc<PoolState>) {
    // The first connections are made with this generation or a newer one.
    let mut moved_to = state.newest().unwrap_or_default();
    loop {
        tokio::select! {
            () = state.restart.notified() => {}
            () = state.wake.notified() => {}
        }
        let began = Instant::now();
        if let Some(newest) = move_to_newest(state).await
            && newest > moved_to
        {
            if moved_to > 0 {
                state.observer.moved(newest, began.elapsed());
            }
            moved_to = newest;
        }
        state.spares.clear();
    }
}

/// Continues until nothing is left to be replaced, and returns the newest generation then.
async fn move_to_newest(state: &Arc<PoolState>) -> Option<u64> {
    let mut deadline = None;
    let mut connect_takes = Duration::ZERO;
    let mut failures = 0;
    while let Some(newest) = state.newest().filter(|_| !state.is_draining()) {
        let old = survey(state, newest);
        let now = state.live.now();
        let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
        // Each generation has a deadline of its own, set by its first idle old connections: a
        // connection that is never returned must not make every later rotation late.
        deadline = deadline.filter(|(generation, _)| *generation == newest);
        if let (None, Some(expiry)) = (deadline, old.first_expiry) {
            deadline = Some((newest, now + time_to_move(until(expiry))));
        }
        let time_left = if state.urgent_until.load(Ordering::Relaxed) >= newest {
            Duration::ZERO
        } else {
            deadline.map_or(LONGEST_MOVE, |(_, at)| until(at))
        };
        let step = next_step(&Workload {
            old_parked: old.parked.len(),
            old_claimed: old.claimed,
            spares: state.spares.count(newest),
            connect_takes,
            time_left,
            failing: failures > 0,
        });
        match step {
            NextStep::Done => return Some(newest),
            NextStep::Exchange => exchange_parked(state, &old, newest),
            NextStep::Connect { spares, rest } => {
                let began = Instant::now();
                let pause = match connect_spares(state, spares).await {
                    Ok(()) => {
                        failures = 0;
                        connect_takes = began.elapsed();
                        // Before the pause, which is for the server and not for the spares.
                        exchange_parked(state, &survey(state, newest), newest);
                        rest
                    }
                    Err(class) => {
                        failures += 1;
                        if class.may_pass() {
                            connect_wait(failures, rand::random())
                        } else {
                            replace_wait(failures, time_left, rand::random())
                        }
                    }
                };
                if timeout(pause, state.restart.notified()).await.is_ok() {
                    failures = 0;
                }
            }
            NextStep::AwaitReturn => {
                tokio::select! {
                    () = state.wake.notified() => {}
                    () = state.restart.notified() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        }
    }
    None
}

/// Connects new spares.
///
/// # Errors
/// The class of the last failure, if all of them failed.
async fn connect_spares(state: &Arc<PoolState>, spares: usize) -> Result<(), FailureClass> {
    let end = state.connect_deadline();
    let mut outcome = Err(FailureClass::Draining);
    state.observer.replacing(spares);
    let connects = (0..spares).map(|_| connect::connect_newest(state, end));
    for connected in join_all(connects).await {
        match connected {
            Ok(spare) => {
                state.observer.connected();
                // Not if the pool drains now, or forbids its generation.
                if let Ok(()) = spare.hand_over(|session| state.spares.put(session)) {
                    outcome = Ok(());
                }
            }
            Err(error) => {
                state.observer.connect_failed(&error);
                if outcome.is_err() {
                    outcome = Err(error.class());
                }
            }
        }
    }
    state.observer.replacing(0);
    outcome
}

/// Exchanges parked sessions for spares, until either runs out.
pub(crate) fn exchange_parked(state: &PoolState, old: &Survey, newest: u64) {
    for slot in &old.parked {
        let Some(mut session) = state.spares.take(newest) else {
            return;
        };
        let retire = |old: &Session| {
            let expired = state.has_expired(&old.driver.snapshot);
            let is_old = old.generation() < newest;
            let reason = exchange_reason(is_old, old.is_usable(), expired);
            state.retire(&old.driver, reason);
        };
        if !slot.exchange_parked(&mut session, retire) {
            state.spares.put(session);
        }
    }
}
