//! When to renew, and how long to wait after a failure. Pure: takes facts, returns times.

#![allow(
    unreachable_pub,
    reason = "the module `testing`, if it is on, exports the facts"
)]

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::error::RenewError;

/// The part of the usable lifetime in which the renewal point lies.
const RENEWAL_BAND: Range<f64> = 0.50..0.75;

/// The earliest point to which [`RenewalSchedule::survive_outage`] may move the band's start.
const EARLIEST_RENEWAL: f64 = 0.10;

/// The first wait after a failure, as a part of the usable lifetime: half of [`RETRY_CAP`].
///
/// A smaller first step would make each member of a fleet retry more often in an outage, and so
/// raise the peak after it.
const FIRST_RETRY: f64 = 0.025;

/// The shortest first wait, however short the lifetime.
const SHORTEST_FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait after a failure, as a part of the usable lifetime.
const RETRY_CAP: f64 = 0.05;

/// The bounds of [`RETRY_CAP`].
pub(crate) const RETRY_CAP_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(300));

/// The longest time after a failure in which a requested renewal is limited.
///
/// Half of the back-off's first step, if that is less. An operator who has fixed the source must
/// not have to wait for long.
pub(crate) const LONGEST_HOLD_OFF: Duration = Duration::from_secs(10);

/// The longest wait before the first certificate, when there is no lifetime to measure by.
const START_RETRY_CAP: Duration = Duration::from_secs(10);

/// The longest `Retry-After` that is honoured while no certificate is valid.
const LONGEST_REQUESTED_WAIT: Duration = Duration::from_secs(60);

/// The shortest usable lifetime of a first certificate.
///
/// A quarter of it remains at the latest renewal point: a second, which is one wait after a failure
/// and the shortest time between two fetches. In less, no failure could be made good.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(4);

/// The last part of the usable lifetime: a certificate in it is renewed before it is handed out.
const LEEWAY: f64 = 0.02;

/// The upper bound of [`LEEWAY`].
const LONGEST_LEEWAY: Duration = Duration::from_secs(30);

/// The remaining part of the usable lifetime at which an unrenewed certificate is warned about.
///
/// Past the band, with room for some retries: a 24 h certificate warns 4.8 h before it expires.
const WARN_AT: f64 = 0.20;

/// The time in which a certificate can be used here.
///
/// From when it was obtained, not from `not_before`: Vault's backdating has no influence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsableLifetime {
    from: SystemTime,
    until: SystemTime,
}

impl UsableLifetime {
    /// From the later of `obtained_at` and `not_before` to `not_after`, all wall clock.
    pub fn new(obtained_at: SystemTime, not_before: SystemTime, not_after: SystemTime) -> Self {
        Self {
            from: obtained_at.max(not_before),
            until: not_after,
        }
    }

    /// How long it is; zero if it ends before it begins.
    pub fn length(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    /// How close to expiry a certificate is renewed before it is handed out.
    pub(crate) fn leeway(&self) -> Duration {
        self.length().mul_f64(LEEWAY).min(LONGEST_LEEWAY)
    }

    /// The end of the renewal band.
    pub(crate) fn latest_renewal(&self) -> SystemTime {
        self.from + self.length().mul_f64(RENEWAL_BAND.end)
    }

    pub(crate) fn warn_at(&self) -> SystemTime {
        self.until - self.length().mul_f64(WARN_AT)
    }

    /// The renewal point where the schedule's promise cannot be kept: as early as any may be.
    pub(crate) fn earliest_renewal(&self) -> SystemTime {
        self.from + self.length().mul_f64(EARLIEST_RENEWAL)
    }
}

/// When to renew a certificate.
///
/// # Defaults
/// A certificate is renewed between 50 % and 75 % of its usable lifetime: a 24 h certificate
/// between 12 h and 18 h after it was obtained. The point is drawn from the certificate itself, so
/// a fleet spreads over the band and a restart does not move the point.
///
/// A first certificate with a usable lifetime of less than 4 s is refused, since no renewal of it
/// could fail and be retried in time; request 5 s or more, since X.509 counts whole seconds. A
/// later one that is as short is used and renewed at 10 % of its lifetime.
///
/// After a failure the first wait is 2.5 % of the usable lifetime, at least 1 s. It doubles up to
/// 5 % (at least 1 s, at most 300 s; 10 s before the first certificate). Each wait is drawn from
/// its upper half. A source's own `Retry-After` is honoured up to half of the remaining lifetime,
/// or up to 60 s while no certificate is valid.
///
/// # Example
/// A 60 s certificate is renewed between 30 s and 45 s after it was obtained. To survive an outage
/// of 20 s it is renewed between 22 s and 37 s: 20 s and one capped wait (3 s) before it expires.
/// ```
/// use std::time::Duration;
/// use perennial::{LiveCert, RenewalSchedule};
///
/// let schedule = RenewalSchedule::new().survive_outage(Duration::from_secs(20));
/// let builder = LiveCert::builder().renewal(schedule);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct RenewalSchedule {
    outage: Duration,
}

impl RenewalSchedule {
    /// The band alone.
    pub const fn new() -> Self {
        Self {
            outage: Duration::ZERO,
        }
    }

    /// Renews earlier, so that the certificate survives an outage of the source of this length.
    ///
    /// Counted from just before the renewal point, with one capped wait for the renewal after it.
    /// A first certificate whose band would begin before 10 % of its usable lifetime is refused;
    /// a later one is used and renewed at 10 %.
    ///
    /// # Defaults
    /// Zero.
    pub const fn survive_outage(mut self, outage: Duration) -> Self {
        self.outage = outage;
        self
    }

    /// When to renew, wall clock.
    pub(crate) fn renewal_point(
        &self,
        lifetime: &UsableLifetime,
        leaf_sha256: &[u8; 32],
    ) -> Result<SystemTime, RenewError> {
        let usable = lifetime.length();
        let width = usable.mul_f64(RENEWAL_BAND.end - RENEWAL_BAND.start);
        let mut end = usable.mul_f64(RENEWAL_BAND.end);
        if !self.outage.is_zero() {
            let reserve = self.outage.saturating_add(Backoff::of(Some(lifetime)).cap);
            end = end.min(usable.saturating_sub(reserve));
        }
        let start = end.saturating_sub(width);
        if usable < SHORTEST_LIFETIME || start < usable.mul_f64(EARLIEST_RENEWAL) {
            return Err(RenewError::LifetimeTooShort {
                usable,
                outage: self.outage,
                needed: self.needed(),
            });
        }
        Ok(lifetime.from + start + width.mul_f64(draw(leaf_sha256)))
    }

    /// The shortest usable lifetime in which the outage can be survived.
    fn needed(&self) -> Duration {
        // In seconds: lifetime - outage - cap >= (EARLIEST + width) * lifetime, where the cap is
        // 5 % of the lifetime between its bounds; the bound that applies gives the answer.
        let width = RENEWAL_BAND.end - RENEWAL_BAND.start;
        let room = 1.0 - EARLIEST_RENEWAL - width;
        let outage = self.outage.as_secs_f64();
        let (lowest, highest) = RETRY_CAP_BOUNDS;
        let proportional = outage / (room - RETRY_CAP);
        let cap = (proportional * RETRY_CAP).clamp(lowest.as_secs_f64(), highest.as_secs_f64());
        let needed = Duration::try_from_secs_f64((outage + cap) / room);
        needed.unwrap_or(Duration::MAX).max(SHORTEST_LIFETIME)
    }
}

/// A number in `[0, 1]` from the leaf: the same after a restart, and uniform over a fleet.
fn draw(leaf_sha256: &[u8; 32]) -> f64 {
    let mut first = [0; 8];
    first.copy_from_slice(&leaf_sha256[..8]);
    u64::from_be_bytes(first) as f64 / u64::MAX as f64
}

/// The waits after failures: they double from a first step to a cap; each is drawn from its upper half.
///
/// For a 24 h certificate the first step would be 36 min, but the cap of 5 min holds, so each wait
/// lies between 150 s and 300 s. For a 60 s certificate: 0.75-1.5 s, then 1.5-3 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// `None` before the first certificate.
    pub(crate) fn of(lifetime: Option<&UsableLifetime>) -> Self {
        let Some(lifetime) = lifetime else {
            return Self {
                first: SHORTEST_FIRST_RETRY,
                cap: START_RETRY_CAP,
            };
        };
        let usable = lifetime.length();
        let cap = usable
            .mul_f64(RETRY_CAP)
            .clamp(RETRY_CAP_BOUNDS.0, RETRY_CAP_BOUNDS.1);
        let first = usable.mul_f64(FIRST_RETRY).max(SHORTEST_FIRST_RETRY);
        Self {
            first: first.min(cap),
            cap,
        }
    }

    /// The wait before the next attempt.
    ///
    /// The source's own wait is honoured up to half of the remaining lifetime, so that there is
    /// another attempt before expiry; up to [`LONGEST_REQUESTED_WAIT`] if no certificate is valid.
    /// `draw` is uniform in `[0, 1)`.
    pub(crate) fn wait(&self, failure: &Failure, draw: f64) -> Duration {
        let step = if failure.transient {
            let doublings = failure.in_a_row.saturating_sub(1).min(31);
            self.first.saturating_mul(1 << doublings).min(self.cap)
        } else {
            self.cap
        };
        let wait = step.mul_f64(0.5 + draw / 2.0);
        match failure.requested_wait {
            Some(requested) if failure.remaining.is_zero() => {
                wait.max(requested.min(LONGEST_REQUESTED_WAIT))
            }
            Some(requested) => wait.max(requested.min(failure.remaining / 2)),
            None => wait,
        }
    }

    /// The shortest time between two attempts, whatever the reason of the second.
    pub(crate) fn shortest_wait(&self) -> Duration {
        (self.first / 2).min(LONGEST_HOLD_OFF)
    }

    /// The longest wait, and the pace of repeated fetches after which nothing had failed.
    pub(crate) fn cap(&self) -> Duration {
        self.cap
    }
}

/// The failure that a wait follows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Failures since the last success, including this one: 1 or more.
    pub in_a_row: u32,
    /// Whether waiting alone can cure it.
    pub transient: bool,
    /// The wait that the source asked for (`Retry-After`).
    pub requested_wait: Option<Duration>,
    /// The remaining lifetime of the certificate in use; zero without one.
    pub remaining: Duration,
}

impl Failure {
    /// A failure that waiting can cure, without a wait that the source asked for.
    #[cfg(any(test, feature = "test-util"))]
    pub const fn transient(in_a_row: u32, remaining: Duration) -> Self {
        Self {
            in_a_row,
            transient: true,
            requested_wait: None,
            remaining,
        }
    }
}

#[cfg(test)]
mod tests;
