use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::admission::Wish;
use crate::clock::Clock;
use crate::error::{StartError, Unavailable};
use crate::events::{Event, Events};
use crate::material::CertMaterial;
use crate::renewer::{Command, Renewal};
use crate::snapshot::Snapshot;
use crate::source::CertSource;
use crate::status::{CertStatus, Progress};

mod builder;
pub use builder::LiveCertBuilder;
mod watch_changes;
pub use watch_changes::{Rotations, StatusChanges};

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
    /// Weak, so that events end with the renewer.
    events: broadcast::WeakSender<Event>,
    writer: Writer,
}

/// Who publishes. Dropping either ends what readers wait for.
enum Writer {
    Renewer {
        commands: mpsc::UnboundedSender<Command>,
        task: AbortHandle,
    },
    Fixed {
        _snapshots: watch::Sender<Option<Arc<Snapshot>>>,
        _progress: watch::Sender<Progress>,
        _events: broadcast::Sender<Event>,
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
            Some(snapshot) if self.shared.clock.is_before(snapshot.not_after()) => Ok(snapshot),
            other => Err(self.unavailable(other.as_deref())),
        }
    }

    /// A certificate that is valid now by the wall clock, renewed first if need be.
    ///
    /// Returns at once unless the certificate is in its last moments
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
            let leeway = snapshot.usable_lifetime().leeway();
            if snapshot.remaining(self.shared.clock.now()) > leeway {
                return Ok(snapshot);
            }
        }
        // The outcome does not matter: what counts is what there is now.
        let _outcome = self.ask(Wish::Valid).await;
        self.current()
    }

    /// How this certificate is doing now.
    pub fn status(&self) -> CertStatus {
        let current = self.shared.snapshots.borrow().clone();
        let progress = self.shared.progress.borrow().clone();
        CertStatus::at(self.shared.clock.now(), current.as_deref(), &progress)
    }

    /// What happens from here on; [`status`](Self::status) says what is.
    pub fn events(&self) -> Events {
        match self.shared.events.upgrade() {
            Some(events) => Events(events.subscribe()),
            // The renewer has ended: nothing happens any more.
            None => Events(broadcast::Sender::new(1).subscribe()),
        }
    }

    /// Whether connections can be made now: for a readiness probe.
    pub fn is_ready(&self) -> bool {
        self.current().is_ok()
    }

    /// Whether a restart might help: for a liveness probe.
    ///
    /// `false` once the certificate has been expired for longer than its usable life was. A source
    /// that is down for less, or has not answered yet, makes no service dead.
    pub fn is_live(&self) -> bool {
        let current = self.shared.snapshots.borrow().clone();
        current.is_none_or(|snapshot| {
            let expired_for = crate::clock::remaining(snapshot.not_after(), self.now());
            expired_for <= snapshot.usable_lifetime().length()
        })
    }

    /// The wall clock that this certificate's life is measured by.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// Renews now, and says what came of it.
    ///
    /// Joins a fetch that is under way. Rate-limited: [`Renewal::Limited`] if the last fetch ended
    /// less than [`SHORTEST_FETCH_INTERVAL`] ago, or, if it failed, less than half of the backoff's
    /// first step ago, 10 s at most.
    ///
    /// [`SHORTEST_FETCH_INTERVAL`]: crate::SHORTEST_FETCH_INTERVAL
    /// [`LONGEST_HOLD_OFF`]: crate::LONGEST_HOLD_OFF
    ///
    /// # Cancel safety
    /// Cancelled, the renewal goes on.
    pub async fn renew_now(&self) -> Renewal {
        self.ask(Wish::Renewal).await
    }

    /// Says that a server refused the certificate of this generation, and renews if that may help.
    ///
    /// At once [`Renewal::Newer`] if there is a newer one by now. Else one fetch is forced for this
    /// generation, whoever reports it and however often. [`Renewal::Limited`] if that has been done,
    /// also if this is what that fetch brought, and while a backoff is on: a server with an expired
    /// CRL refuses every certificate.
    ///
    /// # Cancel safety
    /// Cancelled, the renewal goes on.
    pub async fn report_rejected(&self, generation: u64) -> Renewal {
        self.ask(Wish::NewerThan(generation)).await
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
        // The renewer lets go of its source first and of this channel last.
        match tokio::time::timeout(deadline, commands.closed()).await {
            Ok(()) => Ok(()),
            Err(_elapsed) => {
                task.abort();
                Err(StillRunning { after: deadline })
            }
        }
    }

    async fn ask(&self, wish: Wish) -> Renewal {
        let Writer::Renewer { commands, .. } = &self.shared.writer else {
            return Renewal::Unchanged;
        };
        let (reply, outcome) = oneshot::channel();
        if commands.send(Command::Renew { wish, reply }).is_err() {
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

/// The renewer did not stop within the deadline and was aborted.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the renewer did not stop within {after:?}")]
#[non_exhaustive]
pub struct StillRunning {
    /// The deadline given.
    pub after: Duration,
}

#[cfg(test)]
mod tests;
