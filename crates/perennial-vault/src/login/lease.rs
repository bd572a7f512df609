//! When a token is renewed or replaced; pure.

use std::time::Duration;

use crate::error::{Failure, Problem};
use crate::verdict::Verdict;

/// A token with a shorter remaining lease is not renewed: a request could outlast it.
pub(super) const SHORT_LEASE: Duration = Duration::from_secs(10);

/// A token is renewed at this share of its lease, or up to [`RENEWAL_SPREAD`] earlier.
const RENEWAL_SHARE: f64 = 2.0 / 3.0;

/// The share of a lease over which renewals are spread, so that a fleet that logged in at the same
/// time, as after an outage, does not renew at the same time.
///
/// A one-hour token is renewed between 36 and 40 minutes, at a point drawn at each login.
const RENEWAL_SPREAD: f64 = 1.0 / 15.0;

/// The shortest time between two attempts to renew a token; 1/30 of its lease if that is longer.
const RENEWAL_SPACING: Duration = Duration::from_secs(10);

/// How long a token is valid from when it was granted or renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// The token was not granted by a login of this program.
    Unknown,
    Endless,
    Of(Duration),
}

/// Whether a token's lease can be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Possible,
    /// Not with this kind of token or login.
    Never,
    /// A renewal was refused or granted a shorter lease: the token nears its longest lifetime.
    Over,
}

/// The facts that decide about a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenFacts {
    pub(super) age: Duration,
    pub(super) lease: Lease,
    pub(super) renewal: Renewal,
    /// In [0, 1), drawn at each login: the part of [`RENEWAL_SPREAD`] by which it is renewed earlier.
    pub(super) draw: f64,
}

/// What to do with a token before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Keep,
    Renew,
    LogIn,
}

impl Lease {
    pub(super) fn of_seconds(seconds: u64) -> Self {
        match seconds {
            0 => Self::Endless,
            seconds => Self::Of(Duration::from_secs(seconds)),
        }
    }
}

impl TokenFacts {
    pub(super) fn decide(&self) -> Decision {
        let Lease::Of(lease) = self.lease else {
            return Decision::Keep;
        };
        match self.renewal {
            Renewal::Over => Decision::LogIn,
            _ if self.age < self.due(lease) => Decision::Keep,
            Renewal::Possible if self.remaining(lease) >= SHORT_LEASE => Decision::Renew,
            _ => Decision::LogIn,
        }
    }

    /// The age at which it is renewed between fetches; `None` if never.
    ///
    /// At once if its lease is unknown: the renewal reports it.
    pub(super) fn renewed_at(&self) -> Option<Duration> {
        match (self.lease, self.renewal) {
            (Lease::Unknown, Renewal::Possible) => Some(Duration::ZERO),
            (Lease::Of(lease), Renewal::Possible) => {
                let due = self.due(lease);
                (self.remaining(lease) >= SHORT_LEASE).then_some(due)
            }
            _ => None,
        }
    }

    /// Whether Vault may still accept it.
    pub(super) fn is_alive(&self) -> bool {
        match self.lease {
            Lease::Unknown | Lease::Endless => true,
            Lease::Of(lease) => self.age < lease,
        }
    }

    /// The time between two attempts to renew it.
    pub(super) fn spacing(&self) -> Duration {
        match self.lease {
            Lease::Of(lease) => RENEWAL_SPACING.max(lease / 30),
            Lease::Unknown | Lease::Endless => RENEWAL_SPACING,
        }
    }

    /// Within the spread, or earlier if less than [`SHORT_LEASE`] would remain.
    fn due(&self, lease: Duration) -> Duration {
        let share = RENEWAL_SHARE - self.draw * RENEWAL_SPREAD;
        lease.mul_f64(share).min(lease.saturating_sub(SHORT_LEASE))
    }

    fn remaining(&self, lease: Duration) -> Duration {
        lease.saturating_sub(self.age)
    }
}

/// Whether a token can be renewed again after a renewal: not if its lease became shorter.
pub(super) fn after_renewal(before: Lease, granted: Lease, renewable: Renewal) -> Renewal {
    match (before, granted) {
        (Lease::Of(before), Lease::Of(granted)) if granted < before => Renewal::Over,
        _ => renewable,
    }
}

/// Whether a token can be renewed after a renewal that failed.
///
/// Waiting helps only where the answer is about the server's state (sealed, throttled, without a
/// leader). Vault answers 500 to a lease past its longest, too, so a 500 ends the renewals.
pub(super) fn after_failure(failure: &Failure) -> Renewal {
    match (failure.verdict, &*failure.problem) {
        (Verdict::Transient, Problem::Refused { status: 500, .. }) => Renewal::Over,
        (Verdict::Transient, _) => Renewal::Possible,
        _ => Renewal::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::{Keep, LogIn, Renew};
    use super::Renewal::{Never, Over, Possible};
    use super::*;
    use crate::verdict::Operation;

    fn seconds(lease: u64) -> Lease {
        Lease::of_seconds(lease)
    }

    fn facts(age: u64, lease: Lease, renewal: Renewal) -> TokenFacts {
        TokenFacts {
            age: Duration::from_secs(age),
            lease,
            renewal,
            draw: 0.0,
        }
    }

    #[test]
    fn fleet_that_logged_in_together_renews_over_a_fifteenth_of_the_lease() {
        let due = |draw| {
            let drawn = TokenFacts {
                draw,
                ..facts(0, seconds(3_600), Possible)
            };
            drawn.renewed_at().map(|at| at.as_secs())
        };
        let table = [(0.0, 2_400), (0.25, 2_340), (0.5, 2_280), (0.999_9, 2_160)];
        for (draw, seconds) in table {
            assert_eq!(due(draw), Some(seconds), "{draw}");
        }
    }

    /// Scenario: S7
    #[test]
    fn token_is_renewed_at_two_thirds_and_replaced_where_it_cannot_be_renewed() {
        let day = u64::from(u32::MAX);
        let table = [
            (facts(2_399, seconds(3_600), Possible), Keep),
            (facts(2_400, seconds(3_600), Possible), Renew),
            (facts(3_590, seconds(3_600), Possible), Renew),
            // Too late to renew: a request could outlast the token.
            (facts(3_591, seconds(3_600), Possible), LogIn),
            (facts(9_999, seconds(3_600), Possible), LogIn),
            (facts(2_399, seconds(3_600), Never), Keep),
            (facts(2_400, seconds(3_600), Never), LogIn),
            (facts(0, seconds(3_600), Over), LogIn),
            // Two thirds of 21 s are 14 s, but after 11 s less than SHORT_LEASE remains.
            (facts(10, seconds(21), Possible), Keep),
            (facts(11, seconds(21), Possible), Renew),
            (facts(12, seconds(21), Possible), LogIn),
            (facts(0, seconds(9), Possible), LogIn),
            (facts(day, Lease::Endless, Possible), Keep),
            (facts(day, Lease::Unknown, Possible), Keep),
            (facts(day, Lease::Unknown, Over), Keep),
        ];
        for (facts, expected) in table {
            assert_eq!(facts.decide(), expected, "{facts:?}");
        }
    }

    #[test]
    fn between_fetches_only_renewable_tokens_are_renewed() {
        let table = [
            (facts(0, seconds(3_600), Possible), Some(2_400)),
            (facts(2_500, seconds(3_600), Possible), Some(2_400)),
            (facts(3_595, seconds(3_600), Possible), None),
            (facts(0, seconds(5), Possible), None),
            (facts(0, seconds(3_600), Never), None),
            (facts(0, seconds(3_600), Over), None),
            (facts(7, Lease::Unknown, Possible), Some(0)),
            (facts(7, Lease::Unknown, Over), None),
            (facts(7, Lease::Endless, Possible), None),
        ];
        for (facts, expected) in table {
            let at = expected.map(Duration::from_secs);
            assert_eq!(facts.renewed_at(), at, "{facts:?}");
        }
    }

    #[test]
    fn renewals_stop_when_the_lease_shrinks_or_vault_refuses() {
        let granted = |before, now| after_renewal(before, now, Possible);
        assert_eq!(granted(seconds(3_600), seconds(3_600)), Possible);
        assert_eq!(granted(seconds(3_600), seconds(7_200)), Possible);
        assert_eq!(granted(seconds(3_600), seconds(3_599)), Over);
        assert_eq!(granted(Lease::Unknown, seconds(60)), Possible);

        let answered = |verdict, status| {
            let problem = Problem::Refused {
                operation: Operation::RenewToken,
                path: String::new(),
                status,
                messages: Vec::new(),
                remedy: "",
            };
            after_failure(&Failure::new(verdict, problem))
        };
        for status in [400, 403, 404, 405] {
            assert_eq!(answered(Verdict::Refused, status), Over);
        }
        // `past the max TTL` is a 500.
        assert_eq!(answered(Verdict::Transient, 500), Over);
        for status in [307, 412, 429, 502, 503] {
            assert_eq!(answered(Verdict::Transient, status), Possible);
        }
        let timeout = Failure::transient(Problem::TimedOut {
            operation: Operation::RenewToken,
            origin: String::new(),
            after: Duration::from_secs(5),
        });
        assert_eq!(after_failure(&timeout), Possible);
    }

    #[test]
    fn outage_costs_at_most_ten_attempts_to_renew_a_token() {
        for lease in [60, 3_600, 86_400, 2_764_800] {
            let facts = facts(0, seconds(lease), Possible);
            let Some(due) = facts.renewed_at() else {
                panic!("{lease} s is renewed");
            };
            let window = Duration::from_secs(lease) - due;
            assert!(
                window.as_secs() / facts.spacing().as_secs() <= 10,
                "{lease}"
            );
        }
    }
}
