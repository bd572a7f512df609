//! What the core's own tests share: a CA in memory, a source that does as it is told.

use std::collections::VecDeque;
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

use crate::clock::scripted::Scripted;
use crate::{Ask, CertMaterial, CertSource, LiveCert, LiveCertBuilder, SourceError, Why};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A moment of a whole second, as X.509 times are.
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

/// A root and an intermediate under it.
pub(crate) struct TestCa {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let root = CertifiedIssuer::self_signed(ca("test root"), KeyPair::generate().unwrap());
        let root = root.unwrap();
        let key = KeyPair::generate().unwrap();
        let intermediate = CertifiedIssuer::signed_by(ca("test intermediate"), key, &root);
        Self {
            intermediate: intermediate.unwrap(),
            root,
        }
    }

    pub(crate) fn root_der(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    pub(crate) fn intermediate_der(&self) -> CertificateDer<'static> {
        self.intermediate.der().clone()
    }

    /// A leaf with its key, valid from `from` for `life`.
    pub(crate) fn leaf(
        &self,
        from: SystemTime,
        life: Duration,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (cert, key) = self.sign(from, life);
        (cert.der().clone(), key.into())
    }

    fn sign(&self, from: SystemTime, life: Duration) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "app");
        params.not_before = from.into();
        params.not_after = (from + life).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.intermediate).unwrap(), key)
    }

    /// A whole set: leaf and intermediate, key, root.
    pub(crate) fn issue(&self, from: SystemTime, life: Duration) -> CertMaterial {
        let (leaf, key) = self.leaf(from, life);
        let chain = vec![leaf, self.intermediate_der()];
        CertMaterial::from_der(chain, key, vec![self.root_der()]).unwrap()
    }

    /// The same as PEM texts: chain, key, roots.
    pub(crate) fn pem(&self, from: SystemTime, life: Duration) -> (String, String, String) {
        let (leaf, key) = self.sign(from, life);
        let chain = leaf.pem() + &self.intermediate.pem();
        (chain, key.serialize_pem(), self.root.pem())
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// What a [`ScriptedSource`] does at one fetch.
pub(crate) enum Step {
    /// Issues a certificate of this life.
    Issue(Duration),
    /// Delivers this.
    Deliver(CertMaterial),
    Fail(fn() -> SourceError),
    /// Never answers.
    Hang,
    /// Waits for [`ScriptedSource::release`], then issues.
    HeldUntilReleased(Duration),
}

/// Works off its script; after the end, does what `then` says.
#[derive(Clone)]
pub(crate) struct ScriptedSource(Arc<Script>);

struct Script {
    ca: TestCa,
    wall: Scripted,
    steps: Mutex<VecDeque<Step>>,
    then: Mutex<fn() -> Step>,
    fetches: Mutex<Vec<(Instant, Why)>>,
    released: Notify,
    changed: AtomicUsize,
    change: Notify,
}

impl ScriptedSource {
    pub(crate) fn new(wall: &Scripted, steps: impl IntoIterator<Item = Step>) -> Self {
        Self(Arc::new(Script {
            ca: TestCa::new(),
            wall: wall.clone(),
            steps: Mutex::new(steps.into_iter().collect()),
            then: Mutex::new(|| Step::Issue(10 * MINUTE)),
            fetches: Mutex::default(),
            released: Notify::new(),
            changed: AtomicUsize::new(0),
            change: Notify::new(),
        }))
    }

    /// What to do once the script is at its end.
    pub(crate) fn then(&self, step: fn() -> Step) {
        *self.0.then.lock().unwrap() = step;
    }

    /// Every fetch so far, and why it was made.
    pub(crate) fn fetches(&self) -> Vec<(Instant, Why)> {
        self.0.fetches.lock().unwrap().clone()
    }

    pub(crate) fn release(&self) {
        self.0.released.notify_one();
    }

    /// The next `times` looks at `changed()` find it ready.
    pub(crate) fn say_changed(&self, times: usize) {
        self.0.changed.store(times, Ordering::SeqCst);
        self.0.change.notify_one();
    }
}

impl CertSource for ScriptedSource {
    async fn fetch(&self, ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        let script = &self.0;
        script
            .fetches
            .lock()
            .unwrap()
            .push((Instant::now(), ask.why));
        let step = script.steps.lock().unwrap().pop_front();
        let step = step.unwrap_or_else(|| script.then.lock().unwrap()());
        let now = script.wall.now();
        match step {
            Step::Issue(life) => Ok(script.ca.issue(now, life)),
            Step::Deliver(material) => Ok(material),
            Step::Fail(error) => Err(error()),
            Step::Hang => std::future::pending().await,
            Step::HeldUntilReleased(life) => {
                script.released.notified().await;
                Ok(script.ca.issue(now, life))
            }
        }
    }

    async fn changed(&self) {
        while self.0.changed.load(Ordering::SeqCst) == 0 {
            self.0.change.notified().await;
        }
        self.0.changed.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A builder whose wall clock is `wall`.
pub(crate) fn builder(wall: &Scripted) -> LiveCertBuilder {
    LiveCert::builder().clock(wall.clock())
}

/// Lets paused time run until `condition` holds; fails after a (virtual) day.
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
