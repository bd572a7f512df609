//! Decides how a pool moves onto a new certificate: the next step, and its deadline. Pure.

use std::time::Duration;

use crate::pool::observe::RetireReason;

/// Spares that are kept for old connections in use, at most.
const SPARES_FOR_RETURNS: usize = 2;

/// Replacements that are connected in parallel, at most, however little time is left.
const MAX_PARALLEL_CONNECTS: usize = 8;

/// The part of the old certificate's remaining lifetime in which the pool is moved.
const SHARE_OF_REMAINING: f64 = 0.25;

/// The longest time in which the pool is moved.
pub(crate) const LONGEST_MOVE: Duration = Duration::from_secs(300);

/// The pause after a connect, in multiples of what the connect took, while there is enough time:
/// queries have the server to themselves for that long.
const REST_FACTOR: u32 = 4;

/// A dead session younger than this is replaced only when it has reached this age.
const MIN_AGE_OF_DEAD: Duration = Duration::from_secs(1);

/// The first wait after a failed connect or replacement.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// The longest wait between two tries of one connect, while the server cannot be reached.
const CONNECT_RETRY_CAP: Duration = Duration::from_secs(1);

/// The bounds of the longest wait after a failed replacement, which is a tenth of the time left.
const REPLACE_RETRY_CAP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long moving the pool may take, given the old certificate's remaining lifetime.
pub(crate) fn time_to_move(old_remaining: Duration) -> Duration {
    old_remaining.mul_f64(SHARE_OF_REMAINING).min(LONGEST_MOVE)
}

/// What a rotation has left to do, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Old or dead connections that are idle: they can be exchanged at once.
    pub(crate) old_parked: usize,
    /// Old connections that are checked out: exchanged when they are returned, if a spare is ready.
    pub(crate) old_claimed: usize,
    /// Replacements that are ready.
    pub(crate) spares: usize,
    /// How long the last connect took.
    pub(crate) connect_takes: Duration,
    /// The time until the idle ones should have been moved.
    pub(crate) time_left: Duration,
    /// Whether the last connect failed.
    pub(crate) failing: bool,
}

/// What a rotation does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// Exchange idle old connections for spares.
    Exchange,
    /// Connect this many spares in parallel, then pause for `rest`.
    Connect { spares: usize, rest: Duration },
    /// Enough spares are ready; wait until an old connection is returned.
    AwaitReturn,
    /// No old connection is left.
    Done,
}

pub(crate) fn next_step(work: &Workload) -> NextStep {
    if work.old_parked > 0 {
        return if work.spares > 0 {
            NextStep::Exchange
        } else {
            connect(work)
        };
    }
    // Callers decide when to return what they checked out: a short deadline does not change that.
    if work.spares < work.old_claimed.min(SPARES_FOR_RETURNS) {
        let rest = work.connect_takes.saturating_mul(REST_FACTOR);
        return NextStep::Connect { spares: 1, rest };
    }
    if work.old_claimed > 0 {
        NextStep::AwaitReturn
    } else {
        NextStep::Done
    }
}

/// One connect at a time disturbs queries least; more only where the deadline needs it.
fn connect(work: &Workload) -> NextStep {
    let all = work.connect_takes.mul_f64(work.old_parked as f64);
    let needed = if work.failing {
        1
    } else if work.time_left.is_zero() {
        MAX_PARALLEL_CONNECTS
    } else {
        (all.as_secs_f64() / work.time_left.as_secs_f64()).ceil() as usize
    };
    let enough_time = all.saturating_mul(1 + REST_FACTOR) < work.time_left;
    NextStep::Connect {
        spares: needed.clamp(1, MAX_PARALLEL_CONNECTS).min(work.old_parked),
        rest: if enough_time {
            work.connect_takes.saturating_mul(REST_FACTOR)
        } else {
            Duration::ZERO
        },
    }
}

/// The wait after a replacement failed to connect.
///
/// Doubles from 50 ms to a tenth of the time left, between 1 s and 30 s: the old connections still
/// work, and a whole fleet must not overload a server that refuses the new certificate. `draw` is
/// uniform in `[0, 1)`, `failures` counts from 1.
pub(crate) fn replace_wait(failures: u32, time_left: Duration, draw: f64) -> Duration {
    let cap = (time_left / 10).clamp(REPLACE_RETRY_CAP.0, REPLACE_RETRY_CAP.1);
    doubling(failures, cap, draw)
}

/// The wait between two tries of a connect that a caller waits for.
pub(crate) fn connect_wait(failures: u32, draw: f64) -> Duration {
    doubling(failures, CONNECT_RETRY_CAP, draw)
}

/// How long after its certificate has surely ended a session must end; `None` if never.
///
/// An idle one ends with its certificate; one in use at the hard limit after that, if there is one.
pub(crate) fn outlives_certificate(in_use: bool, hard_limit: Option<Duration>) -> Option<Duration> {
    if in_use {
        hard_limit
    } else {
        Some(Duration::ZERO)
    }
}

/// Whether an idle session is to be replaced: it is outdated, or dead.
///
/// A dead one is replaced once it is [`MIN_AGE_OF_DEAD`] old: with a server that accepts and closes
/// at once, replacing it at once would connect in a loop.
pub(crate) fn is_to_be_replaced(outdated: bool, usable: bool, age: Duration) -> bool {
    outdated || (!usable && age >= MIN_AGE_OF_DEAD)
}

/// Why a session was exchanged. A usable one that is not old is at a server whose role has changed.
pub(crate) fn exchange_reason(old: bool, usable: bool, expired: bool) -> RetireReason {
    match (usable, expired) {
        (true, _) if old => RetireReason::Rotated,
        (true, _) => RetireReason::RoleChanged,
        (false, true) => RetireReason::Expired,
        (false, false) => RetireReason::Dead,
    }
}

/// Whether to connect with the generation that was accepted last instead of the newest.
///
/// The newest is refused, and no caller has forbidden the accepted one.
pub(crate) fn may_fall_back(newest: u64, refused: u64, accepted: u64, oldest_allowed: u64) -> bool {
    newest <= refused && accepted < newest && accepted >= oldest_allowed
}

/// Uniform in the upper half of a step that doubles from [`FIRST_RETRY`] to `cap`.
fn doubling(failures: u32, cap: Duration, draw: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let step = FIRST_RETRY.saturating_mul(1 << doublings).min(cap);
    step.mul_f64(0.5 + draw / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONNECT: Duration = Duration::from_millis(3);
    const AMPLE: Duration = Duration::from_secs(60);

    fn work(old_parked: usize, old_claimed: usize, spares: usize) -> Workload {
        Workload {
            old_parked,
            old_claimed,
            spares,
            connect_takes: CONNECT,
            time_left: AMPLE,
            failing: false,
        }
    }

    #[test]
    fn rotation_with_enough_time_connects_one_at_a_time() {
        let one = NextStep::Connect {
            spares: 1,
            rest: REST_FACTOR * CONNECT,
        };
        let table = [
            // idle old, checked-out old, spares
            (work(0, 0, 0), NextStep::Done),
            (work(0, 0, 2), NextStep::Done),
            (work(20, 0, 0), one),
            (work(20, 0, 1), NextStep::Exchange),
            (work(0, 20, 0), one),
            (work(0, 20, 1), one),
            (work(0, 20, 2), NextStep::AwaitReturn),
            (work(0, 1, 1), NextStep::AwaitReturn),
            (work(20, 0, 2), NextStep::Exchange),
            (work(1, 19, 2), NextStep::Exchange),
        ];
        for (work, step) in table {
            assert_eq!(next_step(&work), step, "{work:?}");
        }
    }

    #[test]
    fn short_deadline_connects_in_parallel_without_rest() {
        let short = Workload {
            time_left: Duration::from_millis(20),
            ..work(40, 0, 0)
        };
        // 40 connects of 3 ms in 20 ms: 6 in parallel.
        assert_eq!(
            next_step(&short),
            NextStep::Connect {
                spares: 6,
                rest: Duration::ZERO
            }
        );
        let late = Workload {
            time_left: Duration::ZERO,
            ..work(40, 0, 0)
        };
        let rest = Duration::ZERO;
        assert_eq!(
            next_step(&late),
            NextStep::Connect {
                spares: MAX_PARALLEL_CONNECTS,
                rest
            }
        );
        // A server that refuses gets one connect at a time, even after the deadline.
        let refused = Workload {
            failing: true,
            ..late
        };
        assert_eq!(next_step(&refused), NextStep::Connect { spares: 1, rest });
    }

    #[test]
    fn wait_after_a_failed_replacement_grows_with_the_time_left() {
        let wait =
            |failures, left| replace_wait(failures, Duration::from_secs(left), 1.0).as_millis();
        assert_eq!(
            [1, 2, 3].map(|failures| wait(failures, 300)),
            [50, 100, 200]
        );
        assert_eq!(
            [0, 5, 100, 300, 3_000].map(|left| wait(40, left)),
            [1_000, 1_000, 10_000, 30_000, 30_000]
        );
        assert_eq!(replace_wait(1, Duration::ZERO, 0.0), FIRST_RETRY / 2);
    }

    #[test]
    fn idle_session_ends_with_its_certificate_and_one_in_use_at_the_hard_limit() {
        let limit = Some(CONNECT);
        for (in_use, limit, ends_after) in [
            (false, None, Some(Duration::ZERO)),
            (false, limit, Some(Duration::ZERO)),
            (true, None, None),
            (true, limit, limit),
        ] {
            assert_eq!(outlives_certificate(in_use, limit), ends_after);
        }
    }

    #[test]
    fn old_session_is_replaced_at_once_and_a_dead_one_after_a_second() {
        let young = MIN_AGE_OF_DEAD / 2;
        let table = [
            // old, usable, age
            (false, true, AMPLE, false),
            (true, true, young, true),
            (true, false, young, true),
            (false, false, young, false),
            (false, false, MIN_AGE_OF_DEAD, true),
        ];
        for (old, usable, age, replaced) in table {
            let got = is_to_be_replaced(old, usable, age);
            assert_eq!(got, replaced, "old {old}, usable {usable}, {age:?}");
        }
    }

    #[test]
    fn accepted_certificate_is_used_while_the_newest_is_refused_unless_forbidden() {
        let table = [
            // newest, refused, accepted, oldest allowed
            (2, 2, 1, 0, true),
            (2, 3, 1, 0, true),
            (3, 2, 1, 0, false),
            (2, 2, 2, 0, false),
            (2, 2, 1, 1, true),
            (2, 2, 1, 2, false),
        ];
        for (newest, refused, accepted, oldest, falls_back) in table {
            let got = may_fall_back(newest, refused, accepted, oldest);
            assert_eq!(got, falls_back, "{newest} {refused} {accepted} {oldest}");
        }
    }

    #[test]
    fn documented_numbers_are_these() {
        assert_eq!(SPARES_FOR_RETURNS, 2);
        assert_eq!(MAX_PARALLEL_CONNECTS, 8);
        assert_eq!(LONGEST_MOVE, Duration::from_secs(300));
        assert_eq!(REST_FACTOR, 4);
    }

    #[test]
    fn connect_is_retried_within_a_second() {
        let waits = [1, 2, 3, 5, 6, 90].map(|failures| connect_wait(failures, 1.0).as_millis());
        assert_eq!(waits, [50, 100, 200, 800, 1_000, 1_000]);
        assert_eq!(connect_wait(90, 0.0), CONNECT_RETRY_CAP / 2);
    }

    #[test]
    fn pool_is_moved_in_a_quarter_of_the_remaining_lifetime_at_most_five_minutes() {
        assert_eq!(
            time_to_move(Duration::from_secs(20)),
            Duration::from_secs(5)
        );
        assert_eq!(time_to_move(Duration::from_secs(6 * 3_600)), LONGEST_MOVE);
        assert_eq!(time_to_move(Duration::ZERO), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn bounds_hold_for_any_workload(
            parked in 0usize..300, claimed in 0usize..300, spares in 0usize..10,
            takes in 0u64..10_000, left in 0u64..300_000, failing: bool,
        ) {
            let work = Workload {
                connect_takes: Duration::from_millis(takes),
                time_left: Duration::from_millis(left),
                failing,
                ..work(parked, claimed, spares)
            };
            if let NextStep::Connect { spares: more, .. } = next_step(&work) {
                prop_assert!(more >= 1);
                prop_assert!(spares + more <= parked + claimed);
                // The deadline does not count for those that are checked out.
                let most = if parked == 0 { SPARES_FOR_RETURNS } else { MAX_PARALLEL_CONNECTS };
                prop_assert!(spares + more <= most);
            }
        }

        #[test]
        fn every_rotation_ends(parked in 0usize..100, claimed in 0usize..100, left in 0u64..10_000) {
            // Each wait returns one checked-out connection.
            let (mut parked, mut claimed, mut spares) = (parked, claimed, 0);
            for _ in 0..1_000 {
                let work = Workload {
                    time_left: Duration::from_millis(left),
                    ..work(parked, claimed, spares)
                };
                match next_step(&work) {
                    NextStep::Done => return Ok(()),
                    NextStep::Exchange => {
                        parked -= 1;
                        spares -= 1;
                    }
                    NextStep::Connect { spares: more, .. } => spares += more,
                    NextStep::AwaitReturn => {
                        claimed -= 1;
                        spares -= 1;
                    }
                }
            }
            prop_assert!(false, "not done after 1,000 steps");
        }
    }
}
