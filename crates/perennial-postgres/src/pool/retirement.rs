//! How a pool moves onto a new certificate: what to do next, and by when. Pure.

use std::time::{Duration, SystemTime};

use crate::failure::FailureClass;
use crate::pool::status::RetireReason;

/// Spares that stand ready, at most, for old connections that are checked out.
pub const BUDGET: usize = 2;

/// Replacements that are connected side by side, at most, however short the time.
pub const MOST_AT_ONCE: usize = 8;

/// The part of the old certificate's remaining life in which the pool is moved.
pub const FINISH_WITHIN: f64 = 0.25;

/// The upper bound of [`FINISH_WITHIN`].
pub const FINISH_AT_MOST: Duration = Duration::from_secs(300);

/// How long the server is left alone after a connect, in lengths of that connect, while time is
/// ample: queries have it to themselves for that long.
pub const REST: u32 = 4;

/// A dead session younger than this is replaced when it is this old.
const DIED_YOUNG: Duration = Duration::from_secs(1);

/// The first wait after a connect or a replacement has failed.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// The longest wait between two tries of one connect, while the server cannot be reached.
pub const CONNECT_RETRY_CAP: Duration = Duration::from_secs(1);

/// The bounds of the longest such wait, a tenth of the time left.
const RETRY_CAP_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long the pool may take, given what the old certificate has left.
pub(crate) fn time_to_finish(old_remaining: Duration) -> Duration {
    old_remaining.mul_f64(FINISH_WITHIN).min(FINISH_AT_MOST)
}

/// What a rotation is up against, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Old or dead connections that are idle: can be exchanged at once.
    pub(crate) old_parked: usize,
    /// Old connections that are checked out: exchanged at return, if a spare stands ready.
    pub(crate) old_claimed: usize,
    /// Replacements that stand ready.
    pub(crate) spares: usize,
    /// What the last connect took.
    pub(crate) connect_takes: Duration,
    /// Until the idle ones should be moved.
    pub(crate) time_left: Duration,
    /// The last connect failed.
    pub(crate) failing: bool,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put spares in the place of idle old connections.
    Exchange,
    /// Connect this many spares at once, then leave the server alone for `rest`.
    Connect { spares: usize, rest: Duration },
    /// Enough spares stand ready; an old connection must come back first.
    AwaitReturn,
    /// Nothing old is left.
    Done,
}

pub(crate) fn next_step(facts: &Facts) -> Step {
    if facts.old_parked > 0 {
        return if facts.spares > 0 {
            Step::Exchange
        } else {
            connect(facts)
        };
    }
    // Those that are checked out come back when they come back: no hurry makes it sooner.
    if facts.spares < facts.old_claimed.min(BUDGET) {
        let rest = facts.connect_takes.saturating_mul(REST);
        return Step::Connect { spares: 1, rest };
    }
    if facts.old_claimed > 0 {
        Step::AwaitReturn
    } else {
        Step::Done
    }
}

/// One at a time disturbs queries least; more only where the deadline needs it.
fn connect(facts: &Facts) -> Step {
    let work = facts.connect_takes.mul_f64(facts.old_parked as f64);
    let needed = if facts.failing {
        1
    } else if facts.time_left.is_zero() {
        MOST_AT_ONCE
    } else {
        (work.as_secs_f64() / facts.time_left.as_secs_f64()).ceil() as usize
    };
    let at_ease = work.saturating_mul(1 + REST) < facts.time_left;
    Step::Connect {
        spares: needed.clamp(1, MOST_AT_ONCE).min(facts.old_parked),
        rest: if at_ease {
            facts.connect_takes.saturating_mul(REST)
        } else {
            Duration::ZERO
        },
    }
}

/// How long to wait after a replacement could not be connected.
///
/// Doubles from 50 ms to a tenth of the time left, between 1 s and 30 s: the old connections still
/// serve, and a server that refuses the new certificate is not to be hammered by a whole fleet.
/// `draw` is uniform in `[0, 1)`, `failures` counts from 1.
pub(crate) fn retry_wait(failures: u32, time_left: Duration, draw: f64) -> Duration {
    let cap = (time_left / 10).clamp(RETRY_CAP_BOUNDS.0, RETRY_CAP_BOUNDS.1);
    doubling(failures, cap, draw)
}

/// How long a connect that somebody waits for leaves a server alone that cannot be reached.
pub(crate) fn connect_wait(failures: u32, draw: f64) -> Duration {
    doubling(failures, CONNECT_RETRY_CAP, draw)
}

/// Whether waiting alone may cure it, soon: then a connect tries again by itself.
pub(crate) fn may_pass(class: FailureClass) -> bool {
    matches!(
        class,
        FailureClass::Unreachable | FailureClass::NotNow | FailureClass::Lost
    )
}

/// When a session must end, wall clock: idle, with its certificate; in use, at the hard limit past
/// that, if there is one.
pub(crate) fn ends_at(
    in_use: bool,
    not_after: SystemTime,
    hard_limit: Option<Duration>,
) -> Option<SystemTime> {
    if in_use {
        not_after.checked_add(hard_limit?)
    } else {
        Some(not_after)
    }
}

/// Whether an idle session is to be replaced: it is old, or dead.
///
/// One that died young waits until it is [`DIED_YOUNG`]: a server that accepts and closes at once is
/// not to be connected to in a loop.
pub(crate) fn is_to_be_replaced(old: bool, fit: bool, age: Duration) -> bool {
    old || (!fit && age >= DIED_YOUNG)
}

/// Why an idle session was exchanged for a newer one.
pub(crate) fn exchanged_for(fit: bool, expired: bool) -> RetireReason {
    match (fit, expired) {
        (true, _) => RetireReason::Rotated,
        (false, true) => RetireReason::Expired,
        (false, false) => RetireReason::Dead,
    }
}

/// Whether what logged in before serves in place of the newest generation: that one is refused, and
/// nobody has forbidden to go back so far.
pub(crate) fn serves_instead(newest: u64, refused: u64, proven: u64, oldest_allowed: u64) -> bool {
    newest <= refused && proven < newest && proven >= oldest_allowed
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

    fn facts(old_parked: usize, old_claimed: usize, spares: usize) -> Facts {
        Facts {
            old_parked,
            old_claimed,
            spares,
            connect_takes: CONNECT,
            time_left: AMPLE,
            failing: false,
        }
    }

    #[test]
    fn steps_of_a_rotation_at_ease() {
        let one = Step::Connect {
            spares: 1,
            rest: REST * CONNECT,
        };
        let table = [
            // idle old, checked-out old, spares
            (facts(0, 0, 0), Step::Done),
            (facts(0, 0, 2), Step::Done),
            (facts(20, 0, 0), one),
            (facts(20, 0, 1), Step::Exchange),
            (facts(0, 20, 0), one),
            (facts(0, 20, 1), one),
            (facts(0, 20, 2), Step::AwaitReturn),
            (facts(0, 1, 1), Step::AwaitReturn),
            (facts(20, 0, 2), Step::Exchange),
            (facts(1, 19, 2), Step::Exchange),
        ];
        for (facts, step) in table {
            assert_eq!(next_step(&facts), step, "{facts:?}");
        }
    }

    #[test]
    fn short_time_makes_more_connects_at_once_and_no_rest() {
        let hurried = Facts {
            time_left: Duration::from_millis(20),
            ..facts(40, 0, 0)
        };
        // 40 connects of 3 ms in 20 ms: 6 at once.
        assert_eq!(
            next_step(&hurried),
            Step::Connect {
                spares: 6,
                rest: Duration::ZERO
            }
        );
        let late = Facts {
            time_left: Duration::ZERO,
            ..facts(40, 0, 0)
        };
        let rest = Duration::ZERO;
        assert_eq!(
            next_step(&late),
            Step::Connect {
                spares: MOST_AT_ONCE,
                rest
            }
        );
        // A server that refuses is tried with one, however late it is.
        let refused = Facts {
            failing: true,
            ..late
        };
        assert_eq!(next_step(&refused), Step::Connect { spares: 1, rest });
    }

    #[test]
    fn waits_after_failures_grow_with_the_time_left() {
        let wait =
            |failures, left| retry_wait(failures, Duration::from_secs(left), 1.0).as_millis();
        assert_eq!(
            [1, 2, 3].map(|failures| wait(failures, 300)),
            [50, 100, 200]
        );
        assert_eq!(
            [0, 5, 100, 300, 3_000].map(|left| wait(40, left)),
            [1_000, 1_000, 10_000, 30_000, 30_000]
        );
        assert_eq!(retry_wait(1, Duration::ZERO, 0.0), FIRST_RETRY / 2);
    }

    #[test]
    fn idle_sessions_end_with_their_certificate_and_those_in_use_at_the_limit() {
        let not_after = SystemTime::UNIX_EPOCH + AMPLE;
        let limit = Some(CONNECT);
        assert_eq!(ends_at(false, not_after, None), Some(not_after));
        assert_eq!(ends_at(false, not_after, limit), Some(not_after));
        assert_eq!(ends_at(true, not_after, None), None);
        assert_eq!(ends_at(true, not_after, limit), Some(not_after + CONNECT));
        assert_eq!(ends_at(true, not_after, Some(Duration::MAX)), None);
    }

    #[test]
    fn what_is_old_or_dead_is_replaced_and_what_died_young_later() {
        let young = DIED_YOUNG / 2;
        let table = [
            // old, fit, age
            (false, true, AMPLE, false),
            (true, true, young, true),
            (true, false, young, true),
            (false, false, young, false),
            (false, false, DIED_YOUNG, true),
        ];
        for (old, fit, age, replaced) in table {
            let got = is_to_be_replaced(old, fit, age);
            assert_eq!(got, replaced, "old {old}, fit {fit}, {age:?}");
        }
    }

    #[test]
    fn what_logged_in_serves_while_the_newest_is_refused_unless_it_is_forbidden() {
        let table = [
            // newest, refused, proven, oldest allowed
            (2, 2, 1, 0, true),
            (2, 3, 1, 0, true),
            (3, 2, 1, 0, false),
            (2, 2, 2, 0, false),
            (2, 2, 1, 1, true),
            (2, 2, 1, 2, false),
        ];
        for (newest, refused, proven, oldest, serves) in table {
            let got = serves_instead(newest, refused, proven, oldest);
            assert_eq!(got, serves, "{newest} {refused} {proven} {oldest}");
        }
    }

    #[test]
    fn connect_is_tried_again_within_a_second() {
        let waits = [1, 2, 3, 5, 6, 90].map(|failures| connect_wait(failures, 1.0).as_millis());
        assert_eq!(waits, [50, 100, 200, 800, 1_000, 1_000]);
        assert_eq!(connect_wait(90, 0.0), CONNECT_RETRY_CAP / 2);
    }

    #[test]
    fn pool_is_moved_in_a_quarter_of_what_is_left_five_minutes_at_most() {
        assert_eq!(
            time_to_finish(Duration::from_secs(20)),
            Duration::from_secs(5)
        );
        assert_eq!(
            time_to_finish(Duration::from_secs(6 * 3_600)),
            FINISH_AT_MOST
        );
        assert_eq!(time_to_finish(Duration::ZERO), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn the_bounds_hold_for_any_facts(
            parked in 0usize..300, claimed in 0usize..300, spares in 0usize..10,
            takes in 0u64..10_000, left in 0u64..300_000, failing: bool,
        ) {
            let facts = Facts {
                connect_takes: Duration::from_millis(takes),
                time_left: Duration::from_millis(left),
                failing,
                ..facts(parked, claimed, spares)
            };
            if let Step::Connect { spares: more, .. } = next_step(&facts) {
                prop_assert!(more >= 1);
                prop_assert!(spares + more <= parked + claimed);
                // For those that are checked out, no hurry counts.
                let most = if parked == 0 { BUDGET } else { MOST_AT_ONCE };
                prop_assert!(spares + more <= most);
            }
        }

        #[test]
        fn every_rotation_ends(parked in 0usize..100, claimed in 0usize..100, left in 0u64..10_000) {
            // One return of a checked-out connection per wait, as endless ones never count here.
            let (mut parked, mut claimed, mut spares) = (parked, claimed, 0);
            for _ in 0..1_000 {
                let facts = Facts {
                    time_left: Duration::from_millis(left),
                    ..facts(parked, claimed, spares)
                };
                match next_step(&facts) {
                    Step::Done => return Ok(()),
                    Step::Exchange => {
                        parked -= 1;
                        spares -= 1;
                    }
                    Step::Connect { spares: more, .. } => spares += more,
                    Step::AwaitReturn => {
                        claimed -= 1;
                        spares -= 1;
                    }
                }
            }
            prop_assert!(false, "not done after 1,000 steps");
        }
    }
}
