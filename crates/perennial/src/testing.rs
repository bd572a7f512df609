//! For tests: a clock that tests move, a source with a script, a CA in memory.
//!
//! For simulations: [`renewal_point`] and [`retry_wait`], the formulas of the renewer.
//!
//! # Example
//! A certificate that cannot be renewed stays in use until it expires; the test does not wait:
//! ```
//! use std::time::{Duration, SystemTime};
//! use perennial::testing::{ScriptedSource, Step, TestClock};
//! use perennial::{CertState, LiveCert, SourceError};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), perennial::StartError> {
//! let clock = TestClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
//! let source = ScriptedSource::new(&clock, [Step::Issue(Duration::from_secs(60))]);
//! source.then(|| Step::Fail(SourceError::unavailable("connection refused")));
//! let live = LiveCert::builder().clock(&clock).start(source.clone()).await?;
//!
//! tokio::time::sleep(Duration::from_secs(50)).await; // tokio's time is paused: this is at once
//! assert_eq!(live.status().state, CertState::Failing);
//! assert!(live.current().is_ok());
//! tokio::time::sleep(Duration::from_secs(10)).await;
//! assert_eq!(live.status().state, CertState::Expired);
//! # Ok(()) }
//! ```

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

#[cfg(test)]
mod own;
#[cfg(test)]
pub(crate) use own::{MINUTE, builder, noon, until};

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use crate::clock::scripted::TestClock;
use crate::schedule::Backoff;
pub use crate::schedule::{Failure, UsableLifetime};
use crate::{
    CertMaterial, CertSource, FetchContext, FetchReason, Fetched, RenewalSchedule, SourceError,
};

/// When the renewer renews a certificate with this lifetime and leaf, wall clock.
///
/// `None` if the lifetime is too short for the outage that the schedule must survive.
pub fn renewal_point(
    schedule: &RenewalSchedule,
    lifetime: &UsableLifetime,
    leaf_sha256: &[u8; 32],
) -> Option<SystemTime> {
    schedule.renewal_point(lifetime, leaf_sha256).ok()
}

/// How long the renewer waits after a failure; `draw` is uniform in `[0, 1)`.
///
/// `lifetime` is that of the certificate in use, expired or not; `None` before the first one.
pub fn retry_wait(lifetime: Option<&UsableLifetime>, failure: &Failure, draw: f64) -> Duration {
    Backoff::of(lifetime).wait(failure, draw)
}

/// Reads the text of a saved certificate, for fuzzing; `None` if it is not one.
pub fn read_saved(text: &[u8]) -> Option<CertMaterial> {
    let saved = crate::source::SavedCert::parse(text).ok()?;
    Some(saved.material)
}

/// A root and an intermediate under it, of P-256.
pub struct TestCa {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    /// Makes both with new keys; they are valid for years.
    pub fn new() -> Self {
        Self::under(ca("test root"))
    }

    fn under(root: CertificateParams) -> Self {
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap());
        let root = root.unwrap();
        let key = KeyPair::generate().unwrap();
        let intermediate = CertifiedIssuer::signed_by(ca("test intermediate"), key, &root);
        Self {
            intermediate: intermediate.unwrap(),
            root,
        }
    }

    /// The root.
    pub fn root_der(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    /// The intermediate that the root issued.
    pub fn intermediate_der(&self) -> CertificateDer<'static> {
        self.intermediate.der().clone()
    }

    /// A client's leaf for `app` (DNS name `app.test`) and its key, valid from `from` for `lifetime`.
    pub fn leaf(
        &self,
        from: SystemTime,
        lifetime: Duration,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (cert, key) = self.sign(&client("app.test", from, lifetime));
        (cert.der().clone(), key.into())
    }

    fn sign(&self, leaf: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (leaf.signed_by(&key, &self.intermediate).unwrap(), key)
    }

    /// Material with leaf and intermediate, key, root.
    pub fn issue(&self, from: SystemTime, lifetime: Duration) -> CertMaterial {
        let (leaf, key) = self.leaf(from, lifetime);
        let chain = vec![leaf, self.intermediate_der()];
        CertMaterial::from_der(chain, key, vec![self.root_der()]).unwrap()
    }

    /// The same as PEM texts: chain, key, roots.
    pub fn pem(&self, from: SystemTime, lifetime: Duration) -> (String, String, String) {
        let (leaf, key) = self.sign(&client("app.test", from, lifetime));
        let chain = leaf.pem() + &self.intermediate.pem();
        (chain, key.serialize_pem(), self.root.pem())
    }
}

fn client(name: &str, from: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "app");
    params.not_before = from.into();
    params.not_after = (from + lifetime).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCa").finish_non_exhaustive()
    }
}

impl fmt::Debug for ScriptedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedSource")
            .field("fetches", &self.fetches().len())
            .finish_non_exhaustive()
    }
}

/// The outcome of one fetch from a [`ScriptedSource`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    /// Issues a certificate with this lifetime.
    Issue(Duration),
    /// Delivers this material.
    Deliver(Fetched),
    /// Fails with this error.
    Fail(SourceError),
    /// Never answers.
    Hang,
    /// Panics.
    Panic,
    /// Waits for [`ScriptedSource::release`], then issues.
    HeldUntilReleased(Duration),
}

/// Follows its script; after the script's end it repeats the step set with [`then`](Self::then).
///
/// Clones share everything: keep one to see the fetches that the renewer made from the other.
///
/// # Defaults
/// After the script's end it issues certificates with a lifetime of ten minutes.
#[derive(Clone)]
pub struct ScriptedSource(Arc<Script>);

struct Script {
    ca: TestCa,
    wall: TestClock,
    steps: Mutex<VecDeque<Step>>,
    then: Mutex<fn() -> Step>,
    fetches: Mutex<Vec<(Instant, FetchReason)>>,
    released: Notify,
    changed: AtomicUsize,
    change: Notify,
}

impl ScriptedSource {
    /// Issues by the clock `wall`; `steps` come first.
    pub fn new(wall: &TestClock, steps: impl IntoIterator<Item = Step>) -> Self {
        Self(Arc::new(Script {
            ca: TestCa::new(),
            wall: wall.clone(),
            steps: Mutex::new(steps.into_iter().collect()),
            then: Mutex::new(|| Step::Issue(Duration::from_secs(600))),
            fetches: Mutex::default(),
            released: Notify::new(),
            changed: AtomicUsize::new(0),
            change: Notify::new(),
        }))
    }

    /// Sets the step for each fetch after the script's end.
    pub fn then(&self, step: fn() -> Step) {
        *self.0.then.lock().unwrap() = step;
    }

    /// Every fetch so far and its reason.
    pub fn fetches(&self) -> Vec<(Instant, FetchReason)> {
        self.0.fetches.lock().unwrap().clone()
    }

    /// Releases a held fetch, or the next one that will be held.
    pub fn release(&self) {
        self.0.released.notify_one();
    }

    /// Makes `changed()` ready until this many more fetches have been made.
    pub fn set_changed(&self, times: usize) {
        self.0.changed.store(times, Ordering::SeqCst);
        self.0.change.notify_one();
    }
}

impl CertSource for ScriptedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        let script = &self.0;
        script
            .fetches
            .lock()
            .unwrap()
            .push((Instant::now(), context.reason));
        let left = script.changed.load(Ordering::SeqCst).saturating_sub(1);
        script.changed.store(left, Ordering::SeqCst);
        let step = script.steps.lock().unwrap().pop_front();
        let step = step.unwrap_or_else(|| script.then.lock().unwrap()());
        let now = script.wall.now();
        match step {
            Step::Issue(lifetime) => Ok(script.ca.issue(now, lifetime).into()),
            Step::Deliver(fetched) => Ok(fetched),
            Step::Fail(error) => Err(error),
            Step::Hang => std::future::pending().await,
            Step::Panic => panic!("scripted"),
            Step::HeldUntilReleased(lifetime) => {
                script.released.notified().await;
                Ok(script.ca.issue(now, lifetime).into())
            }
        }
    }

    async fn changed(&self) {
        while self.0.changed.load(Ordering::SeqCst) == 0 {
            self.0.change.notified().await;
        }
    }
}
