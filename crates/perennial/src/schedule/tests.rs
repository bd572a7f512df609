use proptest::prelude::*;

use super::*;

const YEAR: u64 = 365 * 86_400;

fn lifetime(seconds: u64) -> UsableLifetime {
    let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    UsableLifetime::new(from, from, from + Duration::from_secs(seconds))
}

/// The renewal point, counted from the lifetime's beginning.
fn point(schedule: &RenewalSchedule, lifetime: &UsableLifetime, sha: [u8; 32]) -> Duration {
    let at = schedule.renewal_point(lifetime, &sha).unwrap();
    at.duration_since(lifetime.from).unwrap()
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
    let day = lifetime(86_400);
    let hours = |sha| point(&RenewalSchedule::new(), &day, sha).as_secs_f64() / 3_600.0;
    assert_eq!(hours([0; 32]), 12.0);
    assert_eq!(hours([0xff; 32]), 18.0);
}

#[test]
fn worked_examples_of_the_backoff_hold() {
    let table: [(Option<u64>, u32, f64, f64); 7] = [
        // usable lifetime, failures, lowest and highest wait in seconds
        (Some(60), 1, 0.75, 1.5),
        (Some(60), 2, 1.5, 3.0),
        (Some(60), 3, 1.5, 3.0),
        (Some(5), 9, 0.5, 1.0),
        (Some(86_400), 1, 150.0, 300.0),
        (Some(10 * YEAR), 40, 150.0, 300.0),
        (None, 9, 5.0, 10.0),
    ];
    for (usable, failures, lowest, highest) in table {
        let backoff = Backoff::of(usable.map(lifetime).as_ref());
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
    let backoff = Backoff::of(Some(&lifetime(3_600)));
    let permanent = Failure {
        transient: false,
        ..failure(1)
    };
    assert_eq!(backoff.wait(&permanent, 1.0), Duration::from_secs(180));
}

#[test]
fn requested_wait_is_honoured_up_to_half_of_the_remaining_lifetime() {
    let backoff = Backoff::of(Some(&lifetime(60)));
    let wait = |seconds, remaining| {
        let failure = Failure {
            requested_wait: Some(Duration::from_secs(seconds)),
            remaining: Duration::from_secs(remaining),
            ..failure(1)
        };
        backoff.wait(&failure, 0.0).as_secs_f64()
    };
    assert_eq!(wait(9, 20), 9.0);
    assert_eq!(wait(3_600, 20), 10.0);
    assert_eq!(wait(9, 0), 9.0);
    assert_eq!(wait(3_600, 0), 60.0);
}

fn any_duration() -> impl Strategy<Value = Duration> {
    let of_all_sizes =
        (0..=64u32, any::<u64>(), 0..1_000_000_000u32).prop_map(|(bits, seconds, nanos)| {
            Duration::new(seconds.checked_shr(bits).unwrap_or(0), nanos)
        });
    prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), of_all_sizes]
}

proptest! {
    /// Scenario: F17
    #[test]
    fn outage_lifetime_and_wait_of_any_length_overflow_nowhere(
        outage in any_duration(), length in any_duration(), requested in any_duration(),
        in_a_row in any::<u32>(), draw in 0.0..1.0f64, sha in any::<[u8; 32]>(),
    ) {
        let from = SystemTime::UNIX_EPOCH;
        let until = crate::clock::wall_after(from, length);
        let lifetime = UsableLifetime::new(from, from, until);
        match RenewalSchedule::new().survive_outage(outage).renewal_point(&lifetime, &sha) {
            Ok(point) => prop_assert!(from < point && point < until),
            Err(RenewError::LifetimeTooShort { usable, needed, .. }) => {
                prop_assert!(usable < needed, "{usable:?} {needed:?}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
        prop_assert!(lifetime.earliest_renewal() <= lifetime.latest_renewal());
        prop_assert!(lifetime.latest_renewal() <= lifetime.warn_at().max(until));
        let failure = Failure {
            in_a_row,
            transient: draw < 0.5,
            requested_wait: Some(requested),
            remaining: length,
        };
        let now = crate::clock::Moment::from(from);
        for lifetime in [None, Some(&lifetime)] {
            let next = now.after(Backoff::of(lifetime).wait(&failure, draw));
            prop_assert!(!next.has_passed(now));
        }
    }

    /// Scenario: T1
    #[test]
    fn renewal_point_lies_in_the_band(seconds in 5..10 * YEAR, sha in any::<[u8; 32]>()) {
        let lifetime = lifetime(seconds);
        let at = point(&RenewalSchedule::new(), &lifetime, sha).as_secs_f64();
        let whole = seconds as f64;
        prop_assert!(at >= whole * RENEWAL_BAND.start - 1e-3);
        prop_assert!(at <= whole * RENEWAL_BAND.end + 1e-3);
    }

    #[test]
    fn outage_of_the_promised_length_is_survived(
        seconds in 5..30u64 * 86_400, share in 0.0..1.0f64, sha in any::<[u8; 32]>(), draws in prop::collection::vec(0.0..1.0f64, 64),
    ) {
        let lifetime = lifetime(seconds);
        let outage = lifetime.length().mul_f64(share);
        let schedule = RenewalSchedule::new().survive_outage(outage);
        let Ok(renewal) = schedule.renewal_point(&lifetime, &sha) else {
            return Ok(());
        };
        // It begins when the renewal is due, and every attempt until its end fails.
        let back = renewal + outage;
        let (mut at, mut failures) = (renewal, 0);
        while at < back {
            failures += 1;
            at += Backoff::of(Some(&lifetime)).wait(&failure(failures), draws[failures as usize % 64]);
        }
        prop_assert!(at <= lifetime.until, "renewed at {at:?}, but it expired at {:?}", lifetime.until);
    }

    /// Scenario: T3
    #[test]
    fn waits_stay_between_half_a_first_step_and_the_cap(
        seconds in 5..10 * YEAR, failures in 1u32.., draw in 0.0..1.0f64,
    ) {
        let backoff = Backoff::of(Some(&lifetime(seconds)));
        let wait = backoff.wait(&failure(failures), draw);
        prop_assert!(wait >= backoff.first / 2);
        prop_assert!(wait <= RETRY_CAP_BOUNDS.1);
    }

    #[test]
    fn tries_in_an_outage_have_a_closed_bound(
        seconds in 5..10 * YEAR, outage in 1u64..86_400, draws in prop::collection::vec(0.0..1.0f64, 64),
    ) {
        let backoff = Backoff::of(Some(&lifetime(seconds)));
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

/// Scenario: F28
#[test]
fn lifetime_in_which_no_failure_can_be_made_good_is_refused_and_the_needed_one_is_named() {
    for outage in [0, 1] {
        let schedule = RenewalSchedule::new().survive_outage(Duration::from_secs(outage));
        for seconds in 0..4 {
            let refused = schedule.renewal_point(&lifetime(seconds), &[0; 32]);
            let text = refused.unwrap_err().to_string();
            assert!(
                text.ends_with(": it needs 4s, so request more than that"),
                "{text}"
            );
        }
        assert!(schedule.renewal_point(&lifetime(4), &[0; 32]).is_ok());
    }
}

#[test]
fn lifetime_too_short_for_the_outage_is_refused_and_the_needed_one_is_named() {
    for outage in [5, 20, 300, 86_400] {
        let schedule = RenewalSchedule::new().survive_outage(Duration::from_secs(outage));
        let refused = schedule.renewal_point(&lifetime(outage), &[0; 32]);
        let Err(RenewError::LifetimeTooShort { needed, .. }) = refused else {
            panic!("{refused:?}");
        };
        let enough = needed + Duration::from_millis(1);
        let at = |usable: Duration| {
            let from = SystemTime::UNIX_EPOCH;
            schedule.renewal_point(&UsableLifetime::new(from, from, from + usable), &[0; 32])
        };
        assert!(at(enough).is_ok(), "{refused:?}");
        assert!(
            at(needed - Duration::from_millis(20)).is_err(),
            "{refused:?}"
        );
    }
}

/// Scenario: T5
#[test]
fn lifetime_counts_from_when_it_was_obtained_or_becomes_valid() {
    // T5.
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(
        UsableLifetime::new(at(100), at(70), at(160)).length(),
        Duration::from_secs(60)
    );
    assert_eq!(
        UsableLifetime::new(at(100), at(130), at(160)).length(),
        Duration::from_secs(30)
    );
    assert_eq!(
        UsableLifetime::new(at(200), at(70), at(160)).length(),
        Duration::ZERO
    );
}

/// Scenario: T1
#[test]
fn thousand_certificates_spread_over_the_whole_band() {
    // T1. Ten bins of the band; 1,000 uniform draws put some 100 into each.
    let day = lifetime(86_400);
    let mut bins = [0u32; 10];
    for i in 0u32..1_000 {
        let sha = crate::digest::digest([i.to_be_bytes().as_slice()]);
        let at = point(&RenewalSchedule::new(), &day, sha).as_secs_f64();
        let place = (at / 86_400.0 - RENEWAL_BAND.start) / (RENEWAL_BAND.end - RENEWAL_BAND.start);
        bins[((place * 10.0) as usize).min(9)] += 1;
    }
    assert!(bins.iter().all(|n| (60..=140).contains(n)), "{bins:?}");
}
