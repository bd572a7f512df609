//! When to renew, and how long to wait after a failure. Pure: takes facts, returns times.

use std::ops::Range;
use std::time::{Duration, SystemTime};

/// The part of the usable life in which the renewal point lies.
///
/// A 24 h certificate is renewed between 12 h and 18 h after it was obtained.
pub const RENEWAL_BAND: Range<f64> = 0.50..0.75;

/// The first wait after a failure, as a part of the usable life.
pub const FIRST_RETRY: f64 = 0.005;

/// No first wait is shorter, however short the life.
pub const SHORTEST_FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait after a failure, as a part of the usable life.
pub const RETRY_CAP: f64 = 0.05;

/// The bounds of [`RETRY_CAP`].
pub const RETRY_CAP_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(300));

/// The longest wait while there has been no certificate yet, and so no life to measure by.
pub const START_RETRY_CAP: Duration = Duration::from_secs(10);

/// Within this part of the usable life's end, a certificate is renewed before it is handed out.
pub const LEEWAY: f64 = 0.02;

/// The upper bound of [`LEEWAY`].
pub const LONGEST_LEEWAY: Duration = Duration::from_secs(30);

/// The time in which a certificate can be used here.
///
/// From when it was obtained, not from `not_before`: Vault's backdating plays no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsableLife {
    from: SystemTime,
    until: SystemTime,
}

impl UsableLife {
    pub(crate) fn new(from: SystemTime, until: SystemTime) -> Self {
        Self { from, until }
    }

    pub(crate) fn length(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    /// The renewal point, drawn from the leaf's SHA-256.
    ///
    /// The same after a restart, and uniform over a fleet.
    pub(crate) fn renewal_point(&self, leaf_sha256: &[u8; 32]) -> SystemTime {
        let mut first = [0; 8];
        first.copy_from_slice(&leaf_sha256[..8]);
        let draw = u64::from_be_bytes(first) as f64 / u64::MAX as f64;
        let width = RENEWAL_BAND.end - RENEWAL_BAND.start;
        self.from + self.length().mul_f64(RENEWAL_BAND.start + width * draw)
    }

    /// How close to the end a certificate is renewed before it is handed out.
    pub(crate) fn leeway(&self) -> Duration {
        self.length().mul_f64(LEEWAY).min(LONGEST_LEEWAY)
    }
}

/// The waits after failures: doubling from a first step to a cap, each drawn from its upper half.
///
/// For a 24 h certificate: 216-432 s would be the first step, but the cap of 5 min holds, so each
/// wait lies between 150 s and 300 s. For a 60 s certificate: 0.5-1 s, then 1-2 s, then 1.5-3 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// `None` before there has been any certificate.
    pub(crate) fn for_life(usable: Option<Duration>) -> Self {
        let Some(usable) = usable else {
            return Self {
                first: SHORTEST_FIRST_RETRY,
                cap: START_RETRY_CAP,
            };
        };
        let cap = usable
            .mul_f64(RETRY_CAP)
            .clamp(RETRY_CAP_BOUNDS.0, RETRY_CAP_BOUNDS.1);
        let first = usable.mul_f64(FIRST_RETRY).max(SHORTEST_FIRST_RETRY);
        Self {
            first: first.min(cap),
            cap,
        }
    }

    /// The wait before the next try.
    ///
    /// `draw` is uniform in `[0, 1)`. What the source asked for is honoured up to the time that
    /// the certificate has left, so that a source cannot talk us past its end.
    pub(crate) fn wait(&self, failure: &Failure, draw: f64) -> Duration {
        let step = if failure.transient {
            let doublings = failure.in_a_row.saturating_sub(1).min(31);
            self.first.saturating_mul(1 << doublings).min(self.cap)
        } else {
            self.cap
        };
        let wait = step.mul_f64(0.5 + draw / 2.0);
        match failure.requested_wait {
            Some(requested) => wait.max(requested.min(failure.remaining)),
            None => wait,
        }
    }

    /// No two tries are closer than this, whoever asks.
    pub(crate) fn shortest_wait(&self) -> Duration {
        self.first / 2
    }
}

/// The failure that a wait follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// Failures since the last success, this one included: 1 or more.
    pub(crate) in_a_row: u32,
    pub(crate) transient: bool,
    /// What the source said (`Retry-After`).
    pub(crate) requested_wait: Option<Duration>,
    /// What the certificate in use has left; zero if none is.
    pub(crate) remaining: Duration,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR: u64 = 365 * 86_400;

    fn life(seconds: u64) -> UsableLife {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        UsableLife::new(from, from + Duration::from_secs(seconds))
    }

    fn failure(in_a_row: u32) -> Failure {
        Failure {
            in_a_row,
            transient: true,
            requested_wait: None,
            remaining: Duration::from_secs(600),
        }
    }

    #[test]
    fn a_day_is_renewed_between_12_and_18_hours() {
        let day = life(86_400);
        assert_eq!(
            day.renewal_point(&[0; 32]),
            day.from + Duration::from_secs(12 * 3_600)
        );
        assert_eq!(
            day.renewal_point(&[0xff; 32]),
            day.from + Duration::from_secs(18 * 3_600)
        );
    }

    #[test]
    fn worked_examples_of_the_backoff_hold() {
        let table: [(Option<u64>, u32, f64, f64); 7] = [
            // usable life, failures, lowest and highest wait in seconds
            (Some(60), 1, 0.5, 1.0),
            (Some(60), 2, 1.0, 2.0),
            (Some(60), 3, 1.5, 3.0),
            (Some(5), 9, 0.5, 1.0),
            (Some(86_400), 1, 150.0, 300.0),
            (Some(10 * YEAR), 40, 150.0, 300.0),
            (None, 9, 5.0, 10.0),
        ];
        for (usable, failures, lowest, highest) in table {
            let backoff = Backoff::for_life(usable.map(Duration::from_secs));
            let at = |draw| backoff.wait(&failure(failures), draw).as_secs_f64();
            assert!(
                (at(0.0) - lowest).abs() < 1e-6,
                "{usable:?} {failures}: {}",
                at(0.0)
            );
            assert!(
                (at(1.0) - highest).abs() < 1e-6,
                "{usable:?} {failures}: {}",
                at(1.0)
            );
        }
    }

    #[test]
    fn permanent_failure_waits_for_the_cap() {
        let backoff = Backoff::for_life(Some(Duration::from_secs(3_600)));
        let permanent = Failure {
            transient: false,
            ..failure(1)
        };
        assert_eq!(backoff.wait(&permanent, 1.0), Duration::from_secs(180));
    }

    #[test]
    fn requested_wait_is_honoured_up_to_the_time_left() {
        let backoff = Backoff::for_life(Some(Duration::from_secs(60)));
        let asked = |seconds, remaining| {
            let failure = Failure {
                requested_wait: Some(Duration::from_secs(seconds)),
                remaining: Duration::from_secs(remaining),
                ..failure(1)
            };
            backoff.wait(&failure, 0.0).as_secs_f64()
        };
        assert_eq!(asked(9, 20), 9.0);
        assert_eq!(asked(3_600, 20), 20.0);
        assert_eq!(asked(3_600, 0), 0.5);
    }

    proptest! {
        #[test]
        fn renewal_point_lies_in_the_band(seconds in 5..10 * YEAR, sha in any::<[u8; 32]>()) {
            let life = life(seconds);
            let at = life.renewal_point(&sha).duration_since(life.from).unwrap().as_secs_f64();
            let whole = seconds as f64;
            prop_assert!(at >= whole * RENEWAL_BAND.start - 1e-3);
            prop_assert!(at <= whole * RENEWAL_BAND.end + 1e-3);
        }

        #[test]
        fn waits_stay_between_half_a_first_step_and_the_cap(
            seconds in 5..10 * YEAR, failures in 1u32.., draw in 0.0..1.0f64,
        ) {
            let backoff = Backoff::for_life(Some(Duration::from_secs(seconds)));
            let wait = backoff.wait(&failure(failures), draw);
            prop_assert!(wait >= backoff.shortest_wait());
            prop_assert!(wait <= RETRY_CAP_BOUNDS.1);
        }

        #[test]
        fn tries_in_an_outage_have_a_closed_bound(
            seconds in 5..10 * YEAR, outage in 1u64..86_400, draws in prop::collection::vec(0.0..1.0f64, 64),
        ) {
            let backoff = Backoff::for_life(Some(Duration::from_secs(seconds)));
            // The doubling phase, then one try per half a cap.
            let doubling = (backoff.cap.as_secs_f64() / backoff.first.as_secs_f64()).log2().ceil();
            let bound = 1.0 + doubling + outage as f64 / (backoff.cap.as_secs_f64() / 2.0);
            let (mut tries, mut at) = (0u32, Duration::ZERO);
            while at < Duration::from_secs(outage) {
                tries += 1;
                at += backoff.wait(&failure(tries), draws[tries as usize % draws.len()]);
            }
            prop_assert!(f64::from(tries) <= bound.ceil(), "{tries} tries, bound {bound}");
        }
    }

    #[test]
    fn thousand_certificates_spread_over_the_whole_band() {
        // T1. Ten bins of the band; 1,000 uniform draws put some 100 into each.
        let day = life(86_400);
        let mut bins = [0u32; 10];
        for i in 0u32..1_000 {
            let sha = crate::source::digest([i.to_be_bytes().as_slice()]);
            let at = day
                .renewal_point(&sha)
                .duration_since(day.from)
                .unwrap()
                .as_secs_f64();
            let place =
                (at / 86_400.0 - RENEWAL_BAND.start) / (RENEWAL_BAND.end - RENEWAL_BAND.start);
            bins[((place * 10.0) as usize).min(9)] += 1;
        }
        assert!(bins.iter().all(|n| (60..=140).contains(n)), "{bins:?}");
    }
}
