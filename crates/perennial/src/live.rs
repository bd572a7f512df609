use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::error::{RenewError, StartError, Unavailable};
use crate::material::CertMaterial;
use crate::renewer::{Command, Renewal, Renewer};
use crate::snapshot::Snapshot;
use crate::source::{CertSource, Why};
use crate::status::{CertStatus, Progress};
use crate::tls::{TlsPolicy, TlsSettings, default_provider};

/// How long [`LiveCert::start`] waits for the first certificate.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one fetch may take.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// A certificate that stays fresh: the handle that everything else takes.
///
/// Clones share one renewer, a background task. When the last clone is dropped, it ends.
///
/// # Example
/// ```no_run
/// use perennial::{FileSource, LiveCert};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let source = FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt");
/// let live = LiveCert::start(source).await?;
/// let config = live.current()?.client_config(); // a ready rustls config; ask anew per connection
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "the renewer stops when the last handle is dropped"]
pub struct LiveCert {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    progress: watch::Receiver<Progress>,
    writer: Writer,
}

/// Who publishes. Dropping either ends what readers wait for.
enum Writer {
    Renewer {
        commands: mpsc::UnboundedSender<Command>,
        task: Mutex<Option<JoinHandle<()>>>,
    },
    Fixed {
        _snapshots: watch::Sender<Option<Arc<Snapshot>>>,
        _progress: watch::Sender<Progress>,
    },
}

impl LiveCert {
    /// Starts renewing from `source`, with every setting at its default.
    ///
    /// Returns with a usable certificate. Transient failures are retried meanwhile.
    ///
    /// # Errors
    /// - [`StartError::Failed`]: an error that waiting cannot cure, at once.
    /// - [`StartError::TimedOut`]: no certificate within [`START_TIMEOUT`].
    /// - [`StartError::NoProvider`]: neither crypto feature is on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves nothing behind.
    pub async fn start(source: impl CertSource) -> Result<Self, StartError> {
        Self::builder().start(source).await
    }

    /// Settings other than the defaults.
    pub fn builder() -> LiveCertBuilder {
        LiveCertBuilder::default()
    }

    /// A certificate that never changes: for tests and static setups; starts no task.
    ///
    /// # Errors
    /// - [`StartError::Failed`]: the material did not pass the checks.
    /// - [`StartError::NoProvider`]: neither crypto feature is on.
    pub fn fixed(material: CertMaterial) -> Result<Self, StartError> {
        Self::builder().fixed(material)
    }

    /// The certificate to use for a connection made now; never blocks, never waits.
    ///
    /// # Errors
    /// [`Unavailable`]: none was fetched yet, or the last good one has expired.
    pub fn current(&self) -> Result<Arc<Snapshot>, Unavailable> {
        let current = self.shared.snapshots.borrow().clone();
        match current {
            Some(snapshot) if self.shared.clock.now() < snapshot.not_after() => Ok(snapshot),
            other => Err(self.unavailable(other.as_deref())),
        }
    }

    /// A certificate that is valid now by the wall clock, renewed first if need be.
    ///
    /// Returns at once unless the certificate is in its last moments ([`LEEWAY`](crate::LEEWAY))
    /// or past them, as after a host's sleep. Then it waits for one fetch, shared by all callers.
    /// If that fails, a certificate that is still valid is handed out all the same.
    ///
    /// # Errors
    /// [`Unavailable`]: there is none, and the fetch failed or is not due by the backoff.
    ///
    /// # Cancel safety
    /// Cancelled, it does not cancel the fetch that others wait for.
    pub async fn valid(&self) -> Result<Arc<Snapshot>, Unavailable> {
        if let Ok(snapshot) = self.current() {
            let leeway = snapshot.usable_life().leeway();
            if snapshot.remaining(self.shared.clock.now()) > leeway {
                return Ok(snapshot);
            }
        }
        // The outcome does not matter: what counts is what there is now.
        let _outcome = self.ask(Why::Due).await;
        self.current()
    }

    /// Watches for new generations, beginning with the one there is now.
    pub fn rotations(&self) -> Rotations {
        let mut snapshots = self.shared.snapshots.clone();
        // What is published between here and the first read must be seen.
        snapshots.mark_changed();
        Rotations { snapshots }
    }

    /// How this certificate is doing now.
    pub fn status(&self) -> CertStatus {
        let current = self.shared.snapshots.borrow().clone();
        let progress = self.shared.progress.borrow().clone();
        CertStatus::at(self.shared.clock.now(), current.as_deref(), &progress)
    }

    /// The wall clock that this certificate's life is measured by.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// Renews now, and says what came of it.
    ///
    /// Joins a fetch that is under way. Rate-limited: [`Renewal::Limited`] if the last fetch
    /// ended less than a second ago, or failed less than half a first backoff step ago.
    ///
    /// # Cancel safety
    /// Cancelled, the renewal goes on.
    pub async fn renew_now(&self) -> Renewal {
        self.ask(Why::Asked).await
    }

    /// Stops the renewer, for every clone of this handle.
    ///
    /// A fetch under way is dropped. The certificate stays readable until it expires.
    ///
    /// # Errors
    /// [`StillRunning`]: the source blocked its thread past the deadline; the task was aborted.
    ///
    /// # Cancel safety
    /// Cancelled, the renewer still stops.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), StillRunning> {
        let Writer::Renewer { commands, task } = &self.shared.writer else {
            return Ok(());
        };
        // An error says that it has stopped already.
        let _stopped = commands.send(Command::Shutdown);
        let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else {
            return Ok(());
        };
        match tokio::time::timeout(deadline, &mut task).await {
            Ok(_ended) => Ok(()),
            Err(_elapsed) => {
                task.abort();
                Err(StillRunning { after: deadline })
            }
        }
    }

    async fn ask(&self, why: Why) -> Renewal {
        let Writer::Renewer { commands, .. } = &self.shared.writer else {
            return Renewal::Unchanged;
        };
        let (reply, outcome) = oneshot::channel();
        if commands.send(Command::Renew { why, reply }).is_err() {
            return Renewal::Stopped;
        }
        outcome.await.unwrap_or(Renewal::Stopped)
    }

    fn unavailable(&self, current: Option<&Snapshot>) -> Unavailable {
        let last = self.shared.progress.borrow().last_error.clone();
        match current {
            None => Unavailable::NothingYet { last },
            Some(snapshot) => Unavailable::Expired {
                generation: snapshot.generation(),
                not_after: snapshot.not_after(),
                last,
            },
        }
    }
}

impl fmt::Debug for LiveCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveCert")
            .field("current", &*self.shared.snapshots.borrow())
            .finish_non_exhaustive()
    }
}

/// New generations as they come; holds no renewer alive.
///
/// Shows the latest value: generations only grow, and a slow reader may skip some.
#[derive(Clone, Debug)]
pub struct Rotations {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

impl Rotations {
    /// The next snapshot not yet seen through this handle; the present one at first.
    ///
    /// `None` once the renewer has ended.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        loop {
            self.snapshots.changed().await.ok()?;
            if let Some(snapshot) = &*self.snapshots.borrow_and_update() {
                return Some(Arc::clone(snapshot));
            }
        }
    }

    /// The latest snapshot, seen before or not.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }
}

/// The renewer did not stop within the deadline and was aborted.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the renewer did not stop within {after:?}")]
#[non_exhaustive]
pub struct StillRunning {
    /// The deadline given.
    pub after: Duration,
}

/// Settings of a [`LiveCert`].
///
/// # Defaults
/// `start_timeout` [`START_TIMEOUT`], `fetch_timeout` [`FETCH_TIMEOUT`], [`TlsSettings::new`], the
/// crypto provider of the feature that is on.
#[derive(Clone)]
#[must_use]
pub struct LiveCertBuilder {
    start_timeout: Duration,
    fetch_timeout: Duration,
    provider: Option<Arc<CryptoProvider>>,
    tls: TlsSettings,
    clock: Clock,
}

impl Default for LiveCertBuilder {
    fn default() -> Self {
        Self {
            start_timeout: START_TIMEOUT,
            fetch_timeout: FETCH_TIMEOUT,
            provider: None,
            tls: TlsSettings::new(),
            clock: Clock::default(),
        }
    }
}

impl LiveCertBuilder {
    /// How long [`start`](Self::start) waits for the first certificate.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long one fetch may take.
    pub fn fetch_timeout(mut self, timeout: Duration) -> Self {
        self.fetch_timeout = timeout;
        self
    }

    /// The crypto provider of keys, checks and TLS configs.
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// How TLS is spoken, and by what servers are verified.
    pub fn tls(mut self, settings: TlsSettings) -> Self {
        self.tls = settings;
        self
    }

    #[cfg(test)]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// As [`LiveCert::start`], with these settings.
    ///
    /// # Errors
    /// As [`LiveCert::start`]; [`StartError::Setting`] for a timeout of zero, [`StartError::Tls`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves nothing behind.
    pub async fn start(self, source: impl CertSource) -> Result<LiveCert, StartError> {
        let after = self.start_timeout;
        positive("start_timeout", after)?;
        let live = self.start_lazy(source)?;
        match tokio::time::timeout(after, first_certificate(&live)).await {
            Ok(Ok(())) => Ok(live),
            Ok(Err(permanent)) => Err(StartError::Failed(permanent)),
            Err(_elapsed) => {
                let last = live.shared.progress.borrow().last_error.clone();
                Err(StartError::TimedOut { after, last })
            }
        }
    }

    /// Starts renewing and returns at once; [`LiveCert::valid`] waits for the first certificate.
    ///
    /// For programs that must come up even if the source is down. No failure ends the renewer.
    ///
    /// # Errors
    /// [`StartError::Setting`] for a timeout of zero, [`StartError::NoProvider`],
    /// [`StartError::Tls`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_lazy(self, source: impl CertSource) -> Result<LiveCert, StartError> {
        positive("fetch_timeout", self.fetch_timeout)?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (snapshot_sender, snapshots) = watch::channel(None);
        let (progress_sender, progress) = watch::channel(Progress::default());
        let renewer = Renewer {
            source: Box::new(source),
            tls: self.tls_policy()?,
            clock: self.clock.clone(),
            fetch_timeout: self.fetch_timeout,
            commands: inbox,
            snapshots: snapshot_sender,
            progress: progress_sender,
        };
        let task = tokio::spawn(renewer.run());
        Ok(LiveCert {
            shared: Arc::new(Shared {
                clock: self.clock,
                snapshots,
                progress,
                writer: Writer::Renewer {
                    commands,
                    task: Mutex::new(Some(task)),
                },
            }),
        })
    }

    /// As [`LiveCert::fixed`], with these settings.
    ///
    /// # Errors
    /// As [`LiveCert::fixed`]; [`StartError::Tls`].
    pub fn fixed(self, material: CertMaterial) -> Result<LiveCert, StartError> {
        let tls = self.tls_policy()?;
        let snapshot = Snapshot::build(material, None, self.clock.now(), &tls)
            .map_err(|error| StartError::Failed(Arc::new(RenewError::Material(error))))?;
        let (snapshot_sender, snapshots) = watch::channel(Some(Arc::new(snapshot)));
        let (progress_sender, progress) = watch::channel(Progress::default());
        Ok(LiveCert {
            shared: Arc::new(Shared {
                clock: self.clock,
                snapshots,
                progress,
                writer: Writer::Fixed {
                    _snapshots: snapshot_sender,
                    _progress: progress_sender,
                },
            }),
        })
    }

    fn tls_policy(&self) -> Result<TlsPolicy, StartError> {
        let provider = self.provider.clone().or_else(default_provider);
        let provider = provider.ok_or(StartError::NoProvider)?;
        TlsPolicy::new(provider, self.tls.clone()).map_err(StartError::Tls)
    }
}

impl fmt::Debug for LiveCertBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveCertBuilder")
            .field("start_timeout", &self.start_timeout)
            .field("fetch_timeout", &self.fetch_timeout)
            .finish_non_exhaustive()
    }
}

fn positive(field: &'static str, got: Duration) -> Result<(), StartError> {
    if got.is_zero() {
        return Err(StartError::Setting { field, got });
    }
    Ok(())
}

/// Waits for the first snapshot or the first permanent error, whichever comes first.
async fn first_certificate(live: &LiveCert) -> Result<(), Arc<RenewError>> {
    let mut snapshots = live.shared.snapshots.clone();
    let mut progress = live.shared.progress.clone();
    tokio::select! {
        // The renewer cannot have ended: `live` holds it.
        _first = snapshots.wait_for(Option::is_some) => Ok(()),
        failed = progress.wait_for(|p| p.last_error.as_ref().is_some_and(|e| !e.is_transient())) => {
            match failed.ok().and_then(|p| p.last_error.clone()) {
                Some(permanent) => Err(permanent),
                None => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
