//! A simulated fleet whose members all start in the same second, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::policies::{Cert, Policy};

/// The lifetime of every certificate.
pub const LIFETIME: Duration = Duration::from_secs(3_600);

/// The part of the lifetime over which our schedule spreads renewals: from 50 to 75 %.
const BAND: f64 = 0.25;

/// How long the CA is unavailable.
pub const OUTAGE: Duration = Duration::from_secs(600);

/// How far Vault and OpenBao backdate a certificate by default.
const BACKDATED: Duration = Duration::from_secs(30);

/// The window over which fetches are counted.
pub const WINDOW: Duration = Duration::from_secs(10);

/// The settings of a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// The number of instances.
    pub size: u32,
    /// How long the simulation runs.
    pub duration: Duration,
    /// The seed of all random draws.
    pub seed: u64,
}

/// The result of one simulation.
#[derive(Clone, Debug)]
pub struct FleetRun {
    /// Fetches in each [`WINDOW`], including failed ones; the first window contains the start.
    pub windows: Vec<u32>,
    /// Certificates that expired before they were renewed.
    pub expired: u32,
    /// Failed fetches.
    pub failed: u64,
}

/// A simulation with an outage.
#[derive(Clone, Debug)]
pub struct OutageRun {
    /// When the outage began, counted from the start of the fleet; it lasted [`OUTAGE`].
    pub began: Duration,
    /// The whole simulation.
    pub run: FleetRun,
}

/// An instance between two fetches.
struct Instance {
    cert: Cert,
    failures: u32,
}

impl Fleet {
    /// Fetches per window if the renewals of one lifetime were spread evenly over our band.
    pub fn even(&self) -> f64 {
        let band = LIFETIME.mul_f64(BAND);
        f64::from(self.size) * WINDOW.as_secs_f64() / band.as_secs_f64()
    }

    /// Runs the simulation; every fetch within `outage` fails at once.
    pub fn run(&self, policy: &dyn Policy, outage: Range<Duration>) -> FleetRun {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let windows = self.duration.as_secs().div_ceil(WINDOW.as_secs());
        let mut run = FleetRun {
            windows: vec![0; windows as usize],
            expired: 0,
            failed: 0,
        };
        let mut instances = Vec::new();
        let mut queue = BinaryHeap::new();
        for index in 0..self.size as usize {
            let started = Duration::from_secs_f64(rng.random());
            run.count(started);
            let cert = issue(started);
            queue.push(Reverse((policy.renewal_point(&cert, &mut rng), index)));
            instances.push(Instance { cert, failures: 0 });
        }
        while let Some(Reverse((now, index))) = queue.pop() {
            if now >= self.duration {
                break;
            }
            let instance = &mut instances[index];
            run.count(now);
            let next = if outage.contains(&now) {
                run.failed += 1;
                instance.failures += 1;
                now + policy.retry_wait(&instance.cert, instance.failures, now, &mut rng)
            } else {
                run.expired += u32::from(now >= instance.cert.not_after);
                *instance = Instance {
                    cert: issue(now),
                    failures: 0,
                };
                policy.renewal_point(&instance.cert, &mut rng)
            };
            queue.push(Reverse((next, index)));
        }
        run
    }

    /// Runs the simulation without an outage.
    pub fn calm(&self, policy: &dyn Policy) -> FleetRun {
        self.run(policy, Duration::ZERO..Duration::ZERO)
    }

    /// Runs the simulation with the outage at the worst moment of the first renewals.
    ///
    /// The worst moment is the one with the most expired certificates, and among equals with the highest
    /// peak afterwards. It is searched every 30 s with a tenth of the fleet.
    pub fn worst_outage(&self, policy: &dyn Policy) -> OutageRun {
        let tenth = Self {
            size: self.size / 10,
            duration: 2 * LIFETIME,
            ..*self
        };
        let starts = (1..120).map(|n| 3 * WINDOW * n);
        let damage = |&began: &Duration| {
            let run = tenth.run(policy, began..began + OUTAGE);
            (run.expired, run.peak_from(began + OUTAGE))
        };
        let began = starts.max_by_key(damage).unwrap_or_default();
        let run = self.run(policy, began..began + OUTAGE);
        OutageRun { began, run }
    }
}

impl FleetRun {
    fn count(&mut self, at: Duration) {
        let window = at.as_secs() / WINDOW.as_secs();
        self.windows[window as usize] += 1;
    }

    /// The most fetches in a window that begins at `from` or later.
    pub fn peak_from(&self, from: Duration) -> u32 {
        let first = from.as_secs().div_ceil(WINDOW.as_secs()) as usize;
        let rest = self.windows.get(first..).unwrap_or_default();
        rest.iter().copied().max().unwrap_or_default()
    }

    /// The most fetches in a window, without the first one, in which all instances start.
    pub fn peak(&self) -> u32 {
        self.peak_from(WINDOW)
    }
}

impl OutageRun {
    /// The most fetches in a window after the outage.
    pub fn recovery_peak(&self) -> u32 {
        self.run.peak_from(self.began + OUTAGE)
    }
}

/// Issues a certificate; X.509 times have whole seconds.
fn issue(now: Duration) -> Cert {
    Cert {
        obtained_at: now,
        not_after: Duration::from_secs(now.as_secs()) + LIFETIME,
        validity: BACKDATED + LIFETIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::{ConsulTemplate, Perennial};

    const FLEET: Fleet = Fleet {
        size: 20_000,
        duration: Duration::from_secs(3 * 3_600),
        seed: 7,
    };

    #[test]
    fn fleet_renews_evenly_over_the_band() {
        let run = FLEET.calm(&Perennial);
        let first_wave = &run.windows[181..269];
        // Each window has 222 fetches with a standard deviation of 7 %; allow four deviations.
        for &fetches in first_wave {
            let over = f64::from(fetches) / FLEET.even();
            assert!((0.72..1.28).contains(&over), "{over}");
        }
        assert_eq!(run.expired, 0);
    }

    #[test]
    fn no_certificate_expires_in_an_outage_during_the_first_renewals() {
        let began = Duration::from_secs(2_010);
        let run = FLEET.run(&Perennial, began..began + OUTAGE);
        assert_eq!(run.expired, 0);
        assert!(run.failed > 0);
        // The bar. docs/src/benchmarks.md has the peak for the worst outage.
        let over = f64::from(run.peak_from(began + OUTAGE)) / FLEET.even();
        assert!(over <= 6.0, "{over}");
    }

    #[test]
    fn fleet_without_jitter_renews_in_one_window() {
        // This proves that the simulation can show a peak.
        assert_eq!(FLEET.calm(&ConsulTemplate).peak(), FLEET.size);
    }
}
