//! When a fleet's members renew and retry: ours by its own code, three peers by their formulas.
//!
//! The peers' rules were read in their sources and written anew here, each named with its file.
//! What a peer does around its rule (several HTTP tries per fetch, waiting for an approval) is left
//! out, in its favour.

use std::time::{Duration, SystemTime};

use perennial::{Failure, RenewalPolicy, Schedule, UsableLife};
use rand::{Rng, RngExt};

/// A certificate as a simulated CA issued it; all times count from the simulation's start.
#[derive(Clone, Copy, Debug)]
pub struct Cert {
    /// When it was fetched.
    pub obtained_at: Duration,
    /// When it expires.
    pub not_after: Duration,
    /// From `not_before` to `not_after`: backdating included, as peers measure.
    pub validity: Duration,
}

/// What one fleet runs on; the order of the variants is that of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// `perennial::Schedule` with its defaults.
    Perennial,
    /// consul-template, and so Vault Agent: `pkiCert` in a template.
    ConsulTemplate,
    /// The certificate manager of client-go, known from the kubelet.
    Kubelet,
    /// `step ca renew --daemon`.
    Step,
}

impl Policy {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self::Perennial,
        Self::ConsulTemplate,
        Self::Kubelet,
        Self::Step,
    ];

    /// For tables and legends.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perennial => "perennial",
            Self::ConsulTemplate => "consul-template",
            Self::Kubelet => "kubelet",
            Self::Step => "step ca renew",
        }
    }

    /// When a certificate that was just fetched is to be renewed.
    pub fn renewal_point(self, cert: &Cert, rng: &mut impl Rng) -> Duration {
        match self {
            Self::Perennial => {
                let point = Schedule::new().renewal_point(&life(cert), &rng.random());
                // Only `survive_outage` can make a life too short, and it is not set.
                since_start(point.unwrap_or(SystemTime::UNIX_EPOCH))
            }
            // hashicorp/consul-template, dependency/vault_pki.go, goodFor: nine tenths of the
            // validity (VaultLeaseRenewalThreshold), counted from not_before. The -3..=2 % of
            // jitter that its comment speaks of are divided as integers, and so are always 0.
            // Earlier releases, such as OpenBao 2.7's agent carries, draw one of six values there.
            Self::ConsulTemplate => cert.not_after - cert.validity.mul_f64(1.0 - 0.9),
            // kubernetes/client-go, util/certificate/certificate_manager.go,
            // nextRotationDeadline and jitteryDuration: uniform in 70-90 % of the validity.
            Self::Kubelet => {
                let part = 0.7 + 0.2 * rng.random::<f64>();
                cert.not_after - cert.validity.mul_f64(1.0 - part)
            }
            // smallstep/cli, command/ca/renew.go, nextRenewDuration: a third of the validity
            // ahead of the end, and earlier by a draw from a twentieth of it.
            Self::Step => {
                let ahead = 1.0 / 3.0 + rng.random::<f64>() / 20.0;
                cert.not_after - cert.validity.mul_f64(ahead)
            }
        }
    }

    /// How long to wait after a failed fetch at `now`; `in_a_row` counts this one too.
    pub fn retry_wait(
        self,
        cert: &Cert,
        in_a_row: u32,
        now: Duration,
        rng: &mut impl Rng,
    ) -> Duration {
        match self {
            Self::Perennial => {
                let failure = Failure::transient(in_a_row, cert.not_after.saturating_sub(now));
                Schedule::new().retry_wait(Some(&life(cert)), &failure, rng.random())
            }
            // hashicorp/consul-template, config/retry.go: 250 ms, doubled up to 32 s, then 60 s;
            // no jitter. After twelve the view gives up: the agent then starts its template
            // server anew (seen with OpenBao's), and the count begins again.
            Self::ConsulTemplate => match (in_a_row - 1) % 13 {
                12 => Duration::ZERO,
                doublings @ 0..8 => Duration::from_millis(250 << doublings),
                _ => Duration::from_secs(60),
            },
            // certificate_manager.go, Start: five tries 2, 4, 8 and 16 s apart, each wait longer
            // by up to a tenth; from then on every 32 s, to the second.
            Self::Kubelet => match in_a_row {
                doublings @ 1..5 => {
                    Duration::from_secs(1 << doublings).mul_f64(1.0 + 0.1 * rng.random::<f64>())
                }
                _ => Duration::from_secs(32),
            },
            // command/ca/renew.go, RenewAndPrepareNext: a minute, always.
            Self::Step => Duration::from_secs(60),
        }
    }
}

fn life(cert: &Cert) -> UsableLife {
    let obtained_at = SystemTime::UNIX_EPOCH + cert.obtained_at;
    let not_after = SystemTime::UNIX_EPOCH + cert.not_after;
    UsableLife::new(obtained_at, not_after - cert.validity, not_after)
}

fn since_start(time: SystemTime) -> Duration {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}
