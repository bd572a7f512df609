//! For tests: a clock that is moved by hand, a source that does as it is told, a CA in memory.
//!
//! # Example
//! A certificate that cannot be renewed stays in use until it expires, with no second of waiting:
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

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
#[cfg(test)]
use rcgen::{GeneralSubtree, NameConstraints};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use crate::clock::scripted::TestClock;
pub use crate::schedule::{Failure, UsableLifetime};
use crate::{CertMaterial, CertSource, FetchContext, FetchReason, Fetched, SourceError};
#[cfg(test)]
use crate::{LiveCert, LiveCertBuilder};

#[cfg(test)]
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A moment of a whole second, as X.509 times are.
#[cfg(test)]
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

/// A root and an intermediate under it, of P-256.
pub struct TestCa {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    /// Makes both, with new keys, valid for long.
    pub fn new() -> Self {
        Self::under(ca("test root"))
    }

    /// Under a root that may lead to no other DNS names than this one.
    #[cfg(test)]
    pub(crate) fn bound_to(name: &str) -> Self {
        let mut root = ca("test root");
        root.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(name.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        Self::under(root)
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

    /// The intermediate, which the root issued.
    pub fn intermediate_der(&self) -> CertificateDer<'static> {
        self.intermediate.der().clone()
    }

    /// A client's leaf for `app` (DNS name `app.test`) with its key, valid from `from` for `life`.
    pub fn leaf(
        &self,
        from: SystemTime,
        life: Duration,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (cert, key) = self.sign(&client("app.test", from, life));
        (cert.der().clone(), key.into())
    }

    /// A leaf for this purpose only.
    #[cfg(test)]
    pub(crate) fn leaf_for(
        &self,
        purpose: ExtendedKeyUsagePurpose,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = client("app.test", noon(), MINUTE);
        params.extended_key_usages = vec![purpose];
        let (cert, key) = self.sign(&params);
        (cert.der().clone(), key.into())
    }

    /// A leaf of another DNS name.
    #[cfg(test)]
    pub(crate) fn leaf_named(
        &self,
        name: &str,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (cert, key) = self.sign(&client(name, noon(), MINUTE));
        (cert.der().clone(), key.into())
    }

    fn sign(&self, leaf: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (leaf.signed_by(&key, &self.intermediate).unwrap(), key)
    }

    /// A whole set: leaf and intermediate, key, root.
    pub fn issue(&self, from: SystemTime, life: Duration) -> CertMaterial {
        let (leaf, key) = self.leaf(from, life);
        let chain = vec![leaf, self.intermediate_der()];
        CertMaterial::from_der(chain, key, vec![self.root_der()]).unwrap()
    }

    /// The same as PEM texts: chain, key, roots.
    pub fn pem(&self, from: SystemTime, life: Duration) -> (String, String, String) {
        let (leaf, key) = self.sign(&client("app.test", from, life));
        let chain = leaf.pem() + &self.intermediate.pem();
        (chain, key.serialize_pem(), self.root.pem())
    }
}

fn client(name: &str, from: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "app");
    params.not_before = from.into();
    params.not_after = (from + life).into();
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

/// What a [`ScriptedSource`] does at one fetch.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    /// Issues a certificate of this life.
    Issue(Duration),
    /// Delivers this.
    Deliver(Fetched),
    /// Fails so.
    Fail(SourceError),
    /// Never answers.
    Hang,
    /// Panics.
    Panic,
    /// Waits for [`ScriptedSource::release`], then issues.
    HeldUntilReleased(Duration),
}

/// Works off its script; after the end, does what [`then`](Self::then) says: issues, by default,
/// certificates of ten minutes.
///
/// Clones share everything: keep one to look at what the renewer did with the other.
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
    /// Issues by this clock; `steps` come first.
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

    /// What to do once the script is at its end.
    pub fn then(&self, step: fn() -> Step) {
        *self.0.then.lock().unwrap() = step;
    }

    /// Every fetch so far, and why it was made.
    pub fn fetches(&self) -> Vec<(Instant, FetchReason)> {
        self.0.fetches.lock().unwrap().clone()
    }

    /// Lets a held fetch, or the next one that will be held, go on.
    pub fn release(&self) {
        self.0.released.notify_one();
    }

    /// `changed()` is ready until this many more fetches have been made.
    pub fn say_changed(&self, times: usize) {
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
            Step::Issue(life) => Ok(script.ca.issue(now, life).into()),
            Step::Deliver(fetched) => Ok(fetched),
            Step::Fail(error) => Err(error),
            Step::Hang => std::future::pending().await,
            Step::Panic => panic!("as the script says"),
            Step::HeldUntilReleased(life) => {
                script.released.notified().await;
                Ok(script.ca.issue(now, life).into())
            }
        }
    }

    async fn changed(&self) {
        while self.0.changed.load(Ordering::SeqCst) == 0 {
            self.0.change.notified().await;
        }
    }
}

/// A builder whose wall clock is `wall`.
#[cfg(test)]
pub(crate) fn builder(wall: &TestClock) -> LiveCertBuilder {
    LiveCert::builder().clock(wall)
}

/// Lets paused time run until `condition` holds; fails after a (virtual) day.
#[cfg(test)]
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let deadline = Duration::from_secs(86_400);
    assert!(
        tokio::time::timeout(deadline, waiting).await.is_ok(),
        "never happened: {what}"
    );
}
