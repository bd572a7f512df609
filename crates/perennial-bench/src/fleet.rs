//! A fleet that was started in the same second, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use perennial::RENEWAL_BAND;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::policies::{Cert, Policy};

/// The life of every certificate that is issued.
pub const LIFE: Duration = Duration::from_secs(3_600);

/// How long the CA is away.
pub const OUTAGE: Duration = Duration::from_secs(600);

/// How far Vault and OpenBao date a certificate back, by default.
const BACKDATED: Duration = Duration::from_secs(30);

/// The window over which fetches are counted.
pub const WINDOW: Duration = Duration::from_secs(10);

/// A fleet and what it goes through.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// How many instances.
    pub size: u32,
    /// How long it is watched.
    pub watched: Duration,
    /// Of every draw.
    pub seed: u64,
}

/// What was seen of one fleet.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Fetches in each [`WINDOW`], failed ones too; the first window holds the start.
    pub windows: Vec<u32>,
    /// Certificates that expired before a newer one came.
    pub lost: u32,
    /// Fetches that failed.
    pub failed: u64,
}

/// An outage, and what was seen of the fleet that went through it.
#[derive(Clone, Debug)]
pub struct Ordeal {
    /// When the CA went, counted from the fleet's start; it came back [`OUTAGE`] later.
    pub began: Duration,
    /// The whole run.
    pub sight: Sight,
}

/// An instance between two fetches.
struct Instance {
    cert: Cert,
    failures: u32,
}

impl Fleet {
    /// Fetches in a window if one life's renewals were spread evenly over our band.
    pub fn even(&self) -> f64 {
        let band = LIFE.mul_f64(RENEWAL_BAND.end - RENEWAL_BAND.start);
        f64::from(self.size) * WINDOW.as_secs_f64() / band.as_secs_f64()
    }

    /// Lets it run; every fetch within `outage` fails at once.
    pub fn run(&self, policy: Policy, outage: Range<Duration>) -> Sight {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let windows = self.watched.as_secs().div_ceil(WINDOW.as_secs());
        let mut sight = Sight {
            windows: vec![0; windows as usize],
            lost: 0,
            failed: 0,
        };
        let mut instances = Vec::new();
        let mut queue = BinaryHeap::new();
        for index in 0..self.size as usize {
            let started = Duration::from_secs_f64(rng.random());
            sight.count(started);
            let cert = issue(started);
            queue.push(Reverse((policy.renewal_point(&cert, &mut rng), index)));
            instances.push(Instance { cert, failures: 0 });
        }
        while let Some(Reverse((now, index))) = queue.pop() {
            if now >= self.watched {
                break;
            }
            let instance = &mut instances[index];
            sight.count(now);
            let next = if outage.contains(&now) {
                sight.failed += 1;
                instance.failures += 1;
                now + policy.retry_wait(&instance.cert, instance.failures, now, &mut rng)
            } else {
                sight.lost += u32::from(now >= instance.cert.not_after);
                *instance = Instance {
                    cert: issue(now),
                    failures: 0,
                };
                policy.renewal_point(&instance.cert, &mut rng)
            };
            queue.push(Reverse((next, index)));
        }
        sight
    }

    /// Lets it run in peace.
    pub fn calm(&self, policy: Policy) -> Sight {
        self.run(policy, Duration::ZERO..Duration::ZERO)
    }

    /// Lets it run through the outage in its first wave of renewals that hurts most.
    ///
    /// That is the one with the most certificates lost, and among equals the highest peak
    /// afterwards; looked for every 30 s with a tenth of the fleet.
    pub fn worst_outage(&self, policy: Policy) -> Ordeal {
        let tenth = Self {
            size: self.size / 10,
            watched: 2 * LIFE,
            ..*self
        };
        let starts = (1..120).map(|n| 3 * WINDOW * n);
        let pain = |&began: &Duration| {
            let sight = tenth.run(policy, began..began + OUTAGE);
            (sight.lost, sight.peak_from(began + OUTAGE))
        };
        let began = starts.max_by_key(pain).unwrap_or_default();
        let sight = self.run(policy, began..began + OUTAGE);
        Ordeal { began, sight }
    }
}

impl Sight {
    fn count(&mut self, at: Duration) {
        let window = at.as_secs() / WINDOW.as_secs();
        self.windows[window as usize] += 1;
    }

    /// The fullest window that begins at `from` or later.
    pub fn peak_from(&self, from: Duration) -> u32 {
        let first = from.as_secs().div_ceil(WINDOW.as_secs()) as usize;
        let rest = self.windows.get(first..).unwrap_or_default();
        rest.iter().copied().max().unwrap_or_default()
    }

    /// The fullest window of renewals: after the one in which everybody started.
    pub fn peak(&self) -> u32 {
        self.peak_from(WINDOW)
    }
}

impl Ordeal {
    /// The fullest window after the CA is back.
    pub fn recovery_peak(&self) -> u32 {
        self.sight.peak_from(self.began + OUTAGE)
    }
}

/// Issues in whole seconds, as X.509 times are.
fn issue(now: Duration) -> Cert {
    Cert {
        obtained_at: now,
        not_after: Duration::from_secs(now.as_secs()) + LIFE,
        validity: BACKDATED + LIFE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: Fleet = Fleet {
        size: 20_000,
        watched: Duration::from_secs(3 * 3_600),
        seed: 7,
    };

    #[test]
    fn fleet_renews_evenly_over_the_band() {
        let sight = FLEET.calm(Policy::Perennial);
        let first_wave = &sight.windows[181..269];
        // Windows of 222 fetches, with a deviation of 7 % each: four of them to either side.
        for &fetches in first_wave {
            let over = f64::from(fetches) / FLEET.even();
            assert!((0.72..1.28).contains(&over), "{over}");
        }
        assert_eq!(sight.lost, 0);
    }

    #[test]
    fn outage_in_the_first_wave_loses_no_certificate() {
        let began = Duration::from_secs(2_010);
        let sight = FLEET.run(Policy::Perennial, began..began + OUTAGE);
        assert_eq!(sight.lost, 0);
        assert!(sight.failed > 0);
        // The bar; docs/src/benchmarks.md has the peak where the outage hurts most.
        let over = f64::from(sight.peak_from(began + OUTAGE)) / FLEET.even();
        assert!(over <= 6.0, "{over}");
    }

    #[test]
    fn fleet_without_jitter_renews_in_one_window() {
        // The simulation itself can tell good from bad.
        assert_eq!(FLEET.calm(Policy::ConsulTemplate).peak(), FLEET.size);
    }
}
