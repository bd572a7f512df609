//! How a pool moves onto a new certificate: what to do next, and by when. Pure.

use std::time::Duration;

/// Replacements that are being connected or stand ready at once, unless time is short.
pub const BUDGET: usize = 2;

/// The part of the old certificate's remaining life in which the pool is moved.
pub const FINISH_WITHIN: f64 = 0.25;

/// The upper bound of [`FINISH_WITHIN`].
pub const FINISH_AT_MOST: Duration = Duration::from_secs(300);

/// How long the pool may take, given what the old certificate has left.
pub(crate) fn time_to_finish(old_remaining: Duration) -> Duration {
    old_remaining.mul_f64(FINISH_WITHIN).min(FINISH_AT_MOST)
}

/// What a rotation is up against, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Old connections that are idle: can be exchanged at once.
    pub(crate) old_parked: usize,
    /// Old connections that are checked out: exchanged at return, if a spare stands ready.
    pub(crate) old_claimed: usize,
    /// Replacements that stand ready.
    pub(crate) spares: usize,
    /// What the last connect took.
    pub(crate) connect_takes: Duration,
    /// Until the pool should be moved.
    pub(crate) time_left: Duration,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put a spare in the place of an idle old connection.
    Exchange,
    /// Connect this many spares at once, then leave the server alone for `rest`.
    Connect { spares: usize, rest: Duration },
    /// Enough spares stand ready; an old connection must come back first.
    AwaitReturn,
    /// Nothing old is left.
    Done,
}

pub(crate) fn next_step(facts: &Facts) -> Step {
    let old = facts.old_parked + facts.old_claimed;
    if old == 0 {
        return Step::Done;
    }
    if facts.spares > 0 && facts.old_parked > 0 {
        return Step::Exchange;
    }
    // Connects that must run side by side for all to be done in time.
    let work = facts.connect_takes.mul_f64(old as f64);
    let needed = if facts.time_left.is_zero() {
        old
    } else {
        (work.as_secs_f64() / facts.time_left.as_secs_f64()).ceil() as usize
    };
    let wanted = needed.max(BUDGET).min(old);
    if facts.spares >= wanted {
        return Step::AwaitReturn;
    }
    // One at a time disturbs queries least; the budget is for spares that wait for returns.
    let spares = needed.max(1).min(wanted - facts.spares);
    // At ease, the server has as long to itself as each connect took.
    let at_ease = work.saturating_mul(2) < facts.time_left;
    let rest = if at_ease {
        facts.connect_takes
    } else {
        Duration::ZERO
    };
    Step::Connect { spares, rest }
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
        }
    }

    #[test]
    fn steps_of_a_rotation_at_ease() {
        let one = Step::Connect {
            spares: 1,
            rest: CONNECT,
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
        assert_eq!(
            next_step(&late),
            Step::Connect {
                spares: 40,
                rest: Duration::ZERO
            }
        );
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
        fn no_more_spares_than_old_connections_ever_stand_ready(
            parked in 0usize..300, claimed in 0usize..300, spares in 0usize..10,
            takes in 0u64..10_000, left in 0u64..300_000,
        ) {
            let facts = Facts {
                connect_takes: Duration::from_millis(takes),
                time_left: Duration::from_millis(left),
                ..facts(parked, claimed, spares)
            };
            if let Step::Connect { spares: more, .. } = next_step(&facts) {
                prop_assert!(more >= 1);
                prop_assert!(spares + more <= parked + claimed);
            }
        }

        #[test]
        fn budget_is_kept_while_time_is_ample(
            parked in 0usize..300, claimed in 0usize..300, spares in 0usize..10,
        ) {
            let facts = facts(parked, claimed, spares);
            if let Step::Connect { spares: more, .. } = next_step(&facts) {
                prop_assert!(spares + more <= BUDGET);
            }
        }

        #[test]
        fn every_rotation_ends(parked in 0usize..100, claimed in 0usize..100, left in 0u64..10_000) {
            // One return of a checked-out connection per wait, as endless ones never count here.
            let (mut parked, mut claimed, mut spares) = (parked, claimed, 0);
            for _ in 0..1_000 {
                let facts = Facts { time_left: Duration::from_millis(left), ..facts(parked, claimed, spares) };
                match next_step(&facts) {
                    Step::Done => return Ok(()),
                    Step::Exchange => { parked -= 1; spares -= 1; }
                    Step::Connect { spares: more, .. } => spares += more,
                    Step::AwaitReturn => { claimed -= 1; spares -= 1; }
                }
            }
            prop_assert!(false, "not done after 1,000 steps");
        }
    }
}
