//! When the members of a fleet renew and retry: our own schedule, and the formulas of three peers.
//!
//! The peers' rules were read in their sources and rewritten here; each names its source file. Whatever
//! a peer does beyond its rule (several HTTP attempts per fetch, waiting for an approval) is left out,
//! in the peer's favour.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use perennial::RenewalSchedule;
use perennial::testing::{Failure, UsableLifetime, renewal_point, retry_wait};
use rand::{Rng, RngExt};

/// A certificate as a simulated CA issued it; all times count from the start of the simulation.
#[derive(Clone, Copy, Debug)]
pub struct Cert {
    /// When it was fetched.
    pub obtained_at: Duration,
    /// When it expires.
    pub not_after: Duration,
    /// From `not_before` to `not_after`, including the backdating, as the peers measure it.
    pub validity: Duration,
}

/// The rule by which each member of a fleet renews.
pub trait Policy: Debug {
    /// The name in tables and legends.
    fn name(&self) -> &'static str;

    /// When to renew a certificate that was just fetched.
    fn renewal_point(&self, cert: &Cert, rng: &mut dyn Rng) -> Duration;

    /// How long to wait after a fetch failed at `now`; `failures` in a row include this one.
    fn retry_wait(&self, cert: &Cert, failures: u32, now: Duration, rng: &mut dyn Rng) -> Duration;
}

/// All policies, ours first, in the order of the reports.
pub const ALL: [&dyn Policy; 4] = [&Perennial, &ConsulTemplate, &Kubelet, &Step];

/// [`RenewalSchedule`] with its defaults.
#[derive(Clone, Copy, Debug)]
pub struct Perennial;

impl Policy for Perennial {
    fn name(&self) -> &'static str {
        "perennial"
    }

    fn renewal_point(&self, cert: &Cert, rng: &mut dyn Rng) -> Duration {
        let point = renewal_point(&RenewalSchedule::new(), &lifetime(cert), &rng.random());
        // Only `survive_outage` can make a lifetime too short, and it is not set.
        let since_start = point.map(|at| at.duration_since(SystemTime::UNIX_EPOCH));
        since_start.and_then(Result::ok).unwrap_or_default()
    }

    fn retry_wait(&self, cert: &Cert, failures: u32, now: Duration, rng: &mut dyn Rng) -> Duration {
        let failure = Failure::transient(failures, cert.not_after.saturating_sub(now));
        retry_wait(Some(&lifetime(cert)), &failure, rng.random())
    }
}

/// consul-template, and therefore Vault Agent: `pkiCert` in a template.
#[derive(Clone, Copy, Debug)]
pub struct ConsulTemplate;

impl Policy for ConsulTemplate {
    fn name(&self) -> &'static str {
        "consul-template"
    }

    /// hashicorp/consul-template, dependency/vault_pki.go, goodFor: nine tenths of the validity
    /// (VaultLeaseRenewalThreshold), counted from not_before. Its comment mentions a jitter of
    /// -3..=2 %, but an integer division always makes it 0. Earlier releases, such as the one in
    /// OpenBao 2.7's agent, draw one of six values there.
    fn renewal_point(&self, cert: &Cert, _: &mut dyn Rng) -> Duration {
        cert.not_after - cert.validity.mul_f64(1.0 - 0.9)
    }

    /// hashicorp/consul-template, config/retry.go: 250 ms, doubled up to 32 s, then 60 s; no jitter.
    /// After twelve failures the view gives up. The agent then restarts its template server (observed
    /// with OpenBao's), and the count begins again.
    fn retry_wait(&self, _: &Cert, failures: u32, _: Duration, _: &mut dyn Rng) -> Duration {
        match (failures - 1) % 13 {
            12 => Duration::ZERO,
            doublings @ 0..8 => Duration::from_millis(250 << doublings),
            _ => Duration::from_secs(60),
        }
    }
}

/// The certificate manager of client-go, as used by the kubelet.
#[derive(Clone, Copy, Debug)]
pub struct Kubelet;

impl Policy for Kubelet {
    fn name(&self) -> &'static str {
        "kubelet"
    }

    /// kubernetes/client-go, util/certificate/certificate_manager.go, nextRotationDeadline and
    /// jitteryDuration: uniform in 70-90 % of the validity.
    fn renewal_point(&self, cert: &Cert, rng: &mut dyn Rng) -> Duration {
        let part = 0.7 + 0.2 * rng.random::<f64>();
        cert.not_after - cert.validity.mul_f64(1.0 - part)
    }

    /// certificate_manager.go, Start: five attempts 2, 4, 8 and 16 s apart, each wait up to a tenth
    /// longer; after that every 32 s exactly.
    fn retry_wait(&self, _: &Cert, failures: u32, _: Duration, rng: &mut dyn Rng) -> Duration {
        match failures {
            doublings @ 1..5 => {
                Duration::from_secs(1 << doublings).mul_f64(1.0 + 0.1 * rng.random::<f64>())
            }
            _ => Duration::from_secs(32),
        }
    }
}

/// `step ca renew --daemon`.
#[derive(Clone, Copy, Debug)]
pub struct Step;

impl Policy for Step {
    fn name(&self) -> &'static str {
        "step ca renew"
    }

    /// smallstep/cli, command/ca/renew.go, nextRenewDuration: a third of the validity before expiry,
    /// and earlier by up to a twentieth of it.
    fn renewal_point(&self, cert: &Cert, rng: &mut dyn Rng) -> Duration {
        let before = 1.0 / 3.0 + rng.random::<f64>() / 20.0;
        cert.not_after - cert.validity.mul_f64(before)
    }

    /// command/ca/renew.go, RenewAndPrepareNext: always one minute.
    fn retry_wait(&self, _: &Cert, _: u32, _: Duration, _: &mut dyn Rng) -> Duration {
        Duration::from_secs(60)
    }
}

fn lifetime(cert: &Cert) -> UsableLifetime {
    let obtained_at = SystemTime::UNIX_EPOCH + cert.obtained_at;
    let not_after = SystemTime::UNIX_EPOCH + cert.not_after;
    UsableLifetime::new(obtained_at, not_after - cert.validity, not_after)
}
