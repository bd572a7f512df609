//! What becomes of a token, and when; pure.

use std::time::Duration;

use crate::error::{Failure, VaultError};
use crate::outcome::Verdict;

/// A token with less than this left is not renewed any more: a request could outlive it.
pub const SHORT_LEASE: Duration = Duration::from_secs(10);

/// A token is renewed when this share of its lease is over, or up to [`RENEWAL_SPREAD`] earlier.
pub const RENEWAL_SHARE: f64 = 2.0 / 3.0;

/// The share of a lease over which renewals are spread: a fleet that logged in together, as after
/// an outage, does not renew together.
///
/// A one-hour token is renewed between 36 and 40 minutes; where, is drawn anew with each login.
pub const RENEWAL_SPREAD: f64 = 1.0 / 15.0;

/// Two tries to renew a token lie at least this far apart, or 1/30 of its lease if that is more.
pub const RENEWAL_SPACING: Duration = Duration::from_secs(10);

/// How long a token lives from when it was granted or renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// It was given to this program, and nobody said.
    Unknown,
    Endless,
    Of(Duration),
}

/// Whether its lease can be prolonged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Possible,
    /// Not with this kind of token or login.
    Never,
    /// It was refused, or granted less than before: the token nears the end of all its leases.
    Over,
}

/// What is known of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) age: Duration,
    pub(crate) lease: Lease,
    pub(crate) renewal: Renewal,
    /// In [0, 1), of its own for each login: how much of [`RENEWAL_SPREAD`] it is early.
    pub(crate) draw: f64,
}

/// What to do with a token before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Keep,
    Renew,
    LogIn,
}

impl Lease {
    pub(crate) fn of_seconds(seconds: u64) -> Self {
        match seconds {
            0 => Self::Endless,
            seconds => Self::Of(Duration::from_secs(seconds)),
        }
    }
}

impl Facts {
    pub(crate) fn decide(&self) -> Decision {
        let Lease::Of(lease) = self.lease else {
            return Decision::Keep;
        };
        match self.renewal {
            Renewal::Over => Decision::LogIn,
            _ if self.age < self.due(lease) => Decision::Keep,
            Renewal::Possible if self.left(lease) >= SHORT_LEASE => Decision::Renew,
            _ => Decision::LogIn,
        }
    }

    /// The age at which it is renewed between fetches; `None` if never.
    ///
    /// At once if its lease is not known: a renewal is how one learns it.
    pub(crate) fn renewed_at(&self) -> Option<Duration> {
        match (self.lease, self.renewal) {
            (Lease::Unknown, Renewal::Possible) => Some(Duration::ZERO),
            (Lease::Of(lease), Renewal::Possible) => {
                let due = self.due(lease);
                (self.left(lease) >= SHORT_LEASE).then_some(due)
            }
            _ => None,
        }
    }

    /// Whether Vault may still know it.
    pub(crate) fn is_alive(&self) -> bool {
        match self.lease {
            Lease::Unknown | Lease::Endless => true,
            Lease::Of(lease) => self.age < lease,
        }
    }

    /// How long to leave between two tries to renew it.
    pub(crate) fn spacing(&self) -> Duration {
        match self.lease {
            Lease::Of(lease) => RENEWAL_SPACING.max(lease / 30),
            Lease::Unknown | Lease::Endless => RENEWAL_SPACING,
        }
    }

    /// Within the band, or earlier if less than [`SHORT_LEASE`] would be left.
    fn due(&self, lease: Duration) -> Duration {
        let share = RENEWAL_SHARE - self.draw * RENEWAL_SPREAD;
        lease.mul_f64(share).min(lease.saturating_sub(SHORT_LEASE))
    }

    fn left(&self, lease: Duration) -> Duration {
        lease.saturating_sub(self.age)
    }
}

/// What a renewal leaves to hope for: less than before means that the end is near.
pub(crate) fn after_renewal(before: Lease, granted: Lease, renewable: Renewal) -> Renewal {
    match (before, granted) {
        (Lease::Of(before), Lease::Of(granted)) if granted < before => Renewal::Over,
        _ => renewable,
    }
}

/// The same for a renewal that failed: possible again by waiting alone, or over.
///
/// Vault says with 500 that a lease is past its longest, so of an answer only what speaks of the
/// server's state (sealed, throttled, without a leader) is waited for.
pub(crate) fn after_failure(failure: &Failure) -> Renewal {
    match (failure.verdict, &*failure.cause) {
        (Verdict::Transient, VaultError::Refused { status: 500, .. }) => Renewal::Over,
        (Verdict::Transient, _) => Renewal::Possible,
        _ => Renewal::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::{Keep, LogIn, Renew};
    use super::Renewal::{Never, Over, Possible};
    use super::*;
    use crate::error::Step;

    fn seconds(lease: u64) -> Lease {
        Lease::of_seconds(lease)
    }

    fn facts(age: u64, lease: Lease, renewal: Renewal) -> Facts {
        Facts {
            age: Duration::from_secs(age),
            lease,
            renewal,
            draw: 0.0,
        }
    }

    #[test]
    fn fleet_that_logged_in_together_renews_over_a_fifteenth_of_the_lease() {
        let due = |draw| {
            let drawn = Facts {
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

    #[test]
    fn token_is_renewed_at_two_thirds_and_replaced_when_it_cannot_be() {
        let day = u64::from(u32::MAX);
        let table = [
            (facts(2_399, seconds(3_600), Possible), Keep),
            (facts(2_400, seconds(3_600), Possible), Renew),
            (facts(3_590, seconds(3_600), Possible), Renew),
            // Too late to renew: a request under way could outlive it.
            (facts(3_591, seconds(3_600), Possible), LogIn),
            (facts(9_999, seconds(3_600), Possible), LogIn),
            (facts(2_399, seconds(3_600), Never), Keep),
            (facts(2_400, seconds(3_600), Never), LogIn),
            (facts(0, seconds(3_600), Over), LogIn),
            // Of 21 s two thirds are 14 s, but from 11 s on less than SHORT_LEASE is left.
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
    fn between_fetches_only_what_can_be_renewed_is() {
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
            let cause = VaultError::Refused {
                step: Step::RenewToken,
                path: String::new(),
                status,
                messages: Vec::new(),
                remedy: "",
            };
            after_failure(&Failure::new(verdict, cause))
        };
        for status in [400, 403, 404, 405] {
            assert_eq!(answered(Verdict::Refused, status), Over);
        }
        // `past the max TTL` is a 500.
        assert_eq!(answered(Verdict::Transient, 500), Over);
        for status in [307, 412, 429, 502, 503] {
            assert_eq!(answered(Verdict::Transient, status), Possible);
        }
        let timeout = Failure::transient(VaultError::TimedOut {
            step: Step::RenewToken,
            origin: String::new(),
            after: Duration::from_secs(5),
        });
        assert_eq!(after_failure(&timeout), Possible);
    }

    #[test]
    fn an_outage_costs_at_most_ten_tries_to_renew_a_token() {
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
