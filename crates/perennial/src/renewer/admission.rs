//! Whether a caller's wish for a renewal leads to a fetch. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::FetchReason;

/// What a caller wants of the renewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A certificate that is valid, old or new.
    Valid,
    /// A renewal, now.
    Renewal,
    /// Another certificate than this generation's, which a server has refused.
    NewerThan(u64),
}

/// What the renewer knows when the wish reaches it between two fetches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Situation {
    /// The generation in which the leaf in use first appeared: other roots alone cure no refusal.
    pub(crate) leaf_since: Option<u64>,
    /// What remains of the shortest time between two fetches.
    pub(crate) rest: Duration,
    /// What remains of the wait that follows a fetch without a new certificate.
    pub(crate) pause: Duration,
    /// What remains of the reporter's back-off: an earlier renewal did not cure its refusals.
    pub(crate) back_off: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Fetch(FetchReason),
    /// The certificate in use is newer than the refused one.
    HaveNewer,
    Limited {
        retry_in: Duration,
    },
}

pub(crate) fn admit(wish: Wish, situation: &Situation) -> Admission {
    let Situation {
        leaf_since,
        rest,
        pause,
        back_off,
    } = *situation;
    match wish {
        Wish::NewerThan(refused) if leaf_since.is_some_and(|current| current > refused) => {
            Admission::HaveNewer
        }
        _ if !rest.is_zero() => Admission::Limited { retry_in: rest },
        // An operator may cut a back-off short. A busy pool may not: it would turn the back-off
        // into a storm on the CA.
        Wish::Renewal => Admission::Fetch(FetchReason::Requested),
        _ if !pause.is_zero() => Admission::Limited { retry_in: pause },
        Wish::Valid if leaf_since.is_none() => Admission::Fetch(FetchReason::Start),
        Wish::Valid => Admission::Fetch(FetchReason::Due),
        // A server with an expired CRL refuses every certificate: renewing again is no cure.
        Wish::NewerThan(_) if !back_off.is_zero() => Admission::Limited { retry_in: back_off },
        Wish::NewerThan(_) => Admission::Fetch(FetchReason::Refused),
    }
}

/// The refusals that one reporter has seen, and the renewals that they forced.
///
/// A forced renewal whose certificate is refused again has shown that renewing is no cure. The
/// next one waits for one capped retry wait, then two, four and so on, until this reporter logs
/// in with a newer generation. Another reporter's success resets nothing.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    newest: u64,
    forced: Option<Forced>,
}

/// The last renewal that a refusal forced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forced {
    /// The newest generation when it was forced.
    pub(crate) generation: u64,
    pub(crate) at: Instant,
    /// How many were forced in a row without a success.
    pub(crate) in_a_row: u32,
}

impl Refusals {
    /// Whether this generation's refusal has not been reported here before.
    pub(crate) fn is_news(&mut self, generation: u64) -> bool {
        let news = generation > self.newest;
        self.newest = self.newest.max(generation);
        news
    }

    pub(crate) fn force(&mut self, generation: u64, now: Instant) -> Forced {
        let before = self.forced.map_or(0, |forced| forced.in_a_row);
        *self.forced.insert(Forced {
            generation,
            at: now,
            in_a_row: before.saturating_add(1),
        })
    }

    pub(crate) fn accepted(&mut self, generation: u64) {
        self.forced = self.forced.filter(|forced| generation <= forced.generation);
    }

    /// What remains of the wait before the next forced renewal.
    pub(crate) fn back_off(&self, now: Instant, cap: Duration) -> Duration {
        self.forced
            .map_or(Duration::ZERO, |forced| forced.back_off(now, cap))
    }
}

impl Forced {
    fn back_off(&self, now: Instant, cap: Duration) -> Duration {
        let doublings = self.in_a_row.saturating_sub(1).min(31);
        let wait = cap.saturating_mul(1 << doublings);
        wait.saturating_sub(now.saturating_duration_since(self.at))
    }

    /// The first step of the back-off, for reporters that did not force this renewal themselves
    /// but meet what it brought.
    pub(crate) fn first_step(&self, leaf_since: u64, now: Instant, cap: Duration) -> Duration {
        if leaf_since > self.generation + 1 {
            return Duration::ZERO;
        }
        cap.saturating_sub(now.saturating_duration_since(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Duration = Duration::from_secs(7);

    #[test]
    fn every_wish_has_one_answer() {
        let calm = Situation {
            leaf_since: Some(3),
            ..Situation::default()
        };
        let cold = Situation::default();
        let tired = Situation { rest: SOME, ..calm };
        let failing = Situation {
            pause: SOME,
            ..calm
        };
        let forced = Situation {
            back_off: SOME,
            ..calm
        };
        let limited = Admission::Limited { retry_in: SOME };
        let fetch = Admission::Fetch;
        let table = [
            (Wish::Valid, calm, fetch(FetchReason::Due)),
            (Wish::Valid, cold, fetch(FetchReason::Start)),
            (Wish::Valid, tired, limited),
            (Wish::Valid, failing, limited),
            (Wish::Valid, forced, fetch(FetchReason::Due)),
            (Wish::Renewal, calm, fetch(FetchReason::Requested)),
            (Wish::Renewal, tired, limited),
            (Wish::Renewal, failing, fetch(FetchReason::Requested)),
            (Wish::NewerThan(3), calm, fetch(FetchReason::Refused)),
            (Wish::NewerThan(3), tired, limited),
            (Wish::NewerThan(3), failing, limited),
            (Wish::NewerThan(3), forced, limited),
            (Wish::NewerThan(2), forced, Admission::HaveNewer),
            (Wish::NewerThan(2), tired, Admission::HaveNewer),
            (Wish::NewerThan(2), failing, Admission::HaveNewer),
        ];
        for (wish, situation, expected) in table {
            assert_eq!(admit(wish, &situation), expected, "{wish:?} {situation:?}");
        }
    }

    #[test]
    fn back_off_doubles_until_a_newer_generation_is_accepted() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        assert_eq!(refusals.back_off(now, SOME), Duration::ZERO);
        for (generation, factor) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
            refusals.force(generation, now);
            assert_eq!(refusals.back_off(now, SOME), SOME * factor);
            assert_eq!(refusals.back_off(now + SOME * factor, SOME), Duration::ZERO);
        }
        // An older generation that still logs in is no cure.
        refusals.accepted(4);
        assert_eq!(refusals.back_off(now, SOME), SOME * 8);
        refusals.accepted(5);
        assert_eq!(refusals.back_off(now, SOME), Duration::ZERO);
    }

    #[test]
    fn back_off_of_any_length_overflows_nowhere() {
        let mut refusals = Refusals::default();
        for generation in 0..100 {
            refusals.force(generation, Instant::now());
        }
        assert!(refusals.back_off(Instant::now(), Duration::MAX) > SOME);
    }
}
