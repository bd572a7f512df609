//! When to renew, and how long to wait after a failure. Pure: takes facts, returns times.

use std::ops::Range;
use std::time::{Duration, SystemTime};

/// The part of the usable life in which the renewal point lies.
///
/// A 24 h certificate is renewed between 12 h and 18 h after it was obtained.
pub(crate) const RENEWAL_BAND: Range<f64> = 0.50..0.75;

/// The earliest that [`RenewalSchedule::survive_outage`] may move the band's beginning to.
pub(crate) const EARLIEST_RENEWAL: f64 = 0.10;

/// The first wait after a failure, as a part of the usable life: half of [`RETRY_CAP`].
///
/// A fleet's peak after an outage grows with the tries that one member makes in it: smaller first
/// steps only add to them.
pub(crate) const FIRST_RETRY: f64 = 0.025;

/// No first wait is shorter, however short the life.
pub(crate) const SHORTEST_FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait after a failure, as a part of the usable life.
pub(crate) const RETRY_CAP: f64 = 0.05;

/// The bounds of [`RETRY_CAP`].
pub(crate) const RETRY_CAP_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(300));

/// How long, at most, a renewal that is asked for is refused after a failure: whoever has mended the
/// source must not have to wait.
///
/// Half of the backoff's first step, where that is less.
pub(crate) const LONGEST_HOLD_OFF: Duration = Duration::from_secs(10);

/// The longest wait while there has been no certificate yet, and so no life to measure by.
pub(crate) const START_RETRY_CAP: Duration = Duration::from_secs(10);

/// The longest `Retry-After` that is honoured while no certificate is valid.
pub(crate) const LONGEST_REQUESTED_WAIT: Duration = Duration::from_secs(60);

/// Within this part of the usable life's end, a certificate is renewed before it is handed out.
pub(crate) const LEEWAY: f64 = 0.02;

/// The upper bound of [`LEEWAY`].
pub(crate) const LONGEST_LEEWAY: Duration = Duration::from_secs(30);

/// The part of the usable life that is left when an unrenewed certificate is warned about.
///
/// Past the band with room for some retries: a 24 h certificate warns 4.8 h ahead of its end.
pub(crate) const WARN_AT: f64 = 0.20;

/// The time in which a certificate can be used here.
///
/// From when it was obtained, not from `not_before`: Vault's backdating plays no part.
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

    /// When it begins, wall clock.
    pub fn from(&self) -> SystemTime {
        self.from
    }

    /// When it ends, wall clock.
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// How long it is; zero if it ends before it begins.
    pub fn length(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    /// How close to the end a certificate is renewed before it is handed out.
    pub fn leeway(&self) -> Duration {
        self.length().mul_f64(LEEWAY).min(LONGEST_LEEWAY)
    }

    /// The earliest renewal point that any schedule may have.
    pub(crate) fn earliest_renewal(&self) -> SystemTime {
        self.from + self.length().mul_f64(EARLIEST_RENEWAL)
    }

    pub(crate) fn warn_at(&self) -> SystemTime {
        self.until - self.length().mul_f64(WARN_AT)
    }
}

/// A certificate's usable lifetime is too short for what the schedule promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LifetimeTooShort {
    pub(crate) usable: Duration,
    pub(crate) outage: Duration,
    pub(crate) needed: Duration,
}

/// The default policy: renew at [`RENEWAL_BAND`] of the usable life.
///
/// # Example
/// A 60 s certificate is renewed between 30 s and 45 s after it was obtained; to survive an outage
/// of 20 s, between 22 s and 37 s: 20 s and one capped wait (3 s) before its end.
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
    /// Nothing but the band.
    pub const fn new() -> Self {
        Self {
            outage: Duration::ZERO,
        }
    }

    /// Moves the band earlier, so that the source may be away for this long.
    ///
    /// Counted from just before the renewal point, with one capped wait for the renewal that
    /// follows. Refused where the band would begin before [`EARLIEST_RENEWAL`] of the life.
    pub const fn survive_outage(mut self, outage: Duration) -> Self {
        self.outage = outage;
        self
    }

    /// The shortest life in which the outage can be survived.
    fn needed(&self) -> Duration {
        // In seconds: life - outage - cap >= (EARLIEST + width) * life, where the cap is 5 % of the
        // life between its bounds; whichever of the three cases holds gives the answer.
        let width = RENEWAL_BAND.end - RENEWAL_BAND.start;
        let room = 1.0 - EARLIEST_RENEWAL - width;
        let outage = self.outage.as_secs_f64();
        let (lowest, highest) = (
            RETRY_CAP_BOUNDS.0.as_secs_f64(),
            RETRY_CAP_BOUNDS.1.as_secs_f64(),
        );
        let proportional = outage / (room - RETRY_CAP);
        let cap = (proportional * RETRY_CAP).clamp(lowest, highest);
        Duration::from_secs_f64((outage + cap) / room)
    }
}

impl RenewalSchedule {
    /// When to renew, wall clock; `leaf_sha256` spreads it over the band.
    pub(crate) fn renewal_point(
        &self,
        life: &UsableLifetime,
        leaf_sha256: &[u8; 32],
    ) -> Result<SystemTime, LifetimeTooShort> {
        let usable = life.length();
        let width = usable.mul_f64(RENEWAL_BAND.end - RENEWAL_BAND.start);
        let mut end = usable.mul_f64(RENEWAL_BAND.end);
        if !self.outage.is_zero() {
            let reserve = self.outage.saturating_add(Backoff::of(Some(life)).cap);
            end = end.min(usable.saturating_sub(reserve));
        }
        let start = end.saturating_sub(width);
        if start < usable.mul_f64(EARLIEST_RENEWAL) {
            return Err(LifetimeTooShort {
                usable,
                outage: self.outage,
                needed: self.needed(),
            });
        }
        Ok(life.from + start + width.mul_f64(draw(leaf_sha256)))
    }
}

/// A number in `[0, 1]` from the leaf: the same after a restart, and uniform over a fleet.
fn draw(leaf_sha256: &[u8; 32]) -> f64 {
    let mut first = [0; 8];
    first.copy_from_slice(&leaf_sha256[..8]);
    u64::from_be_bytes(first) as f64 / u64::MAX as f64
}

/// The waits after failures: doubling from a first step to a cap, each drawn from its upper half.
///
/// For a 24 h certificate the first step would be 36 min, but the cap of 5 min holds, so each wait
/// lies between 150 s and 300 s. For a 60 s certificate: 0.75-1.5 s, then 1.5-3 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// `None` before there has been any certificate.
    pub(crate) fn of(life: Option<&UsableLifetime>) -> Self {
        let Some(life) = life else {
            return Self {
                first: SHORTEST_FIRST_RETRY,
                cap: START_RETRY_CAP,
            };
        };
        let usable = life.length();
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
    /// What the source asked for is honoured up to half of what the certificate has left, so that
    /// there is another try before its end; up to [`LONGEST_REQUESTED_WAIT`] where nothing is valid.
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

    /// No two tries are closer than this, whoever asks.
    pub(crate) fn shortest_wait(&self) -> Duration {
        (self.first / 2).min(LONGEST_HOLD_OFF)
    }

    /// The longest wait, and the pace of what is asked again though nothing failed.
    pub(crate) fn cap(&self) -> Duration {
        self.cap
    }
}

/// The failure that a wait follows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Failures since the last success, this one included: 1 or more.
    pub in_a_row: u32,
    /// Whether waiting alone can cure it.
    pub transient: bool,
    /// What the source asked for (`Retry-After`).
    pub requested_wait: Option<Duration>,
    /// What the certificate in use has left; zero if none is.
    pub remaining: Duration,
}

impl Failure {
    /// One that waiting can cure, with nothing asked for: to try a policy out.
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
