use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::clock::{Clock, Moment, Steadiness};
use crate::error::{RenewError, StartError, Unavailable};
use crate::material::CertMaterial;
use crate::observe::{CertStatus, Event, Events, Published};
use crate::renewer::{Command, Renewed, ReporterState, Waiter, Wish};
use crate::snapshot::Snapshot;
use crate::source::CertSource;
use crate::tls::TlsPolicy;

mod builder;
pub use builder::LiveCertBuilder;
mod configs;

/// A certificate that stays fresh: the handle that everything else takes.
///
/// Clones share one renewer, a background task. It ends when the last clone is dropped.
///
/// # Example
/// ```no_run
/// use perennial::{FileSource, LiveCert};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let source = FileSource::new("/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/tls/ca.crt");
/// let live = LiveCert::start(source).await?;
/// let config = live.current()?.client_config(); // a ready rustls config; call again per connection
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "the renewer stops when the last handle is dropped"]
pub struct LiveCert {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    /// Holds nothing that holds a handle.
    tls: Arc<TlsPolicy>,
    steadiness: Mutex<Steadiness>,
    published: watch::Receiver<Published>,
    /// Weak, so that events end with the renewer.
    events: broadcast::WeakSender<Event>,
    writer: Writer,
}

/// What publishes. Dropping either ends what readers wait for.
enum Writer {
    Renewer {
        commands: mpsc::UnboundedSender<Command>,
        task: AbortHandle,
    },
    Fixed {
        _published: watch::Sender<Published>,
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
    /// - [`StartError::TimedOut`]: no certificate within the start timeout, by default 30 s.
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

    /// The certificate for a connection made now; never blocks, never waits.
    ///
    /// # Errors
    /// [`Unavailable`]: no fetch has succeeded yet, or the certificate has expired by either clock:
    /// see [`has_ended`](Self::has_ended).
    pub fn current(&self) -> Result<Arc<Snapshot>, Unavailable> {
        let published = self.shared.published.borrow();
        match &published.snapshot {
            Some(snapshot) if !self.has_ended(snapshot) => Ok(Arc::clone(snapshot)),
            _ => Err(unavailable(&published)),
        }
    }

    /// A certificate that is valid now; waits for a renewal if need be.
    ///
    /// Returns at once unless the certificate has expired or is about to, as after a host's
    /// suspend. Then it waits for one fetch, shared by all callers. If that fails, a certificate
    /// that is still valid is returned anyway.
    ///
    /// # Defaults
    /// "About to expire" is the last 2 % of the usable lifetime, 30 s at most.
    ///
    /// # Errors
    /// [`Unavailable`]: there is none, and the fetch failed or the back-off does not allow one.
    ///
    /// # Cancel safety
    /// Cancelled, it does not cancel the fetch that other callers wait for.
    pub async fn wait_valid(&self) -> Result<Arc<Snapshot>, Unavailable> {
        if let Ok(snapshot) = self.current() {
            let leeway = snapshot.usable_lifetime().leeway();
            if snapshot.end().left(self.moment()) > leeway {
                return Ok(snapshot);
            }
        }
        // Whatever the outcome is, the certificate in use counts.
        let _ = self.ask(Wish::Valid, None).await;
        self.current()
    }

    /// Follows new generations, beginning with the one in use.
    pub fn subscribe(&self) -> Rotations {
        Rotations {
            published: self.shared.published.clone(),
            seen: 0,
        }
    }

    /// How this certificate is doing now.
    pub fn status(&self) -> CertStatus {
        let published = self.shared.published.borrow();
        CertStatus::at(self.moment(), &published, self.has_stopped())
    }

    /// Events from here on; [`status`](Self::status) has the present state.
    pub fn events(&self) -> Events<Event> {
        let receiver = match self.shared.events.upgrade() {
            Some(events) => events.subscribe(),
            // The renewer has ended, and so the events end at once.
            None => broadcast::Sender::new(1).subscribe(),
        };
        Events::from_channel(receiver, Event::Missed)
    }

    /// Whether connections can be made now, and the certificate is renewed: for a readiness probe.
    pub fn is_ready(&self) -> bool {
        !self.has_stopped() && self.current().is_ok()
    }

    /// This certificate's wall clock.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// Whether this certificate has expired by the wall clock *or* by the monotonic clock.
    ///
    /// Such a certificate must not be offered any more. The monotonic clock counts the lifetime
    /// from when this process received the certificate, so a wall clock that was set back prolongs
    /// nothing; the wall clock notices that the host was suspended.
    ///
    /// One clock may be wrong for a moment. For what already works, such as an open connection,
    /// see [`has_surely_ended`](Self::has_surely_ended).
    pub fn has_ended(&self, snapshot: &Snapshot) -> bool {
        snapshot.end().has_passed(self.moment())
    }

    /// Whether this certificate has expired beyond doubt: what it was used for may be torn down.
    ///
    /// Either both clocks say so; or one does, and the wall clock was not set for several looks.
    /// Each call is a look, so call this about once per second for as long as the answer matters.
    ///
    /// # Defaults
    /// Ten looks, at least 1 s apart.
    pub fn has_surely_ended(&self, snapshot: &Snapshot) -> bool {
        self.surely_ended_for(snapshot).is_some()
    }

    /// How long ago this certificate expired beyond doubt; `None` if that is not sure.
    ///
    /// A look as by [`has_surely_ended`](Self::has_surely_ended).
    pub fn surely_ended_for(&self, snapshot: &Snapshot) -> Option<Duration> {
        let now = self.moment();
        let steadiness = self.shared.steadiness.lock();
        let is_steady = steadiness.unwrap_or_else(PoisonError::into_inner).look(now);
        if is_steady {
            snapshot.end().passed_for(now)
        } else {
            snapshot.end().passed_for_by_both(now)
        }
    }

    fn moment(&self) -> Moment {
        self.shared.clock.moment()
    }

    /// Whether the renewer's task is gone.
    fn has_stopped(&self) -> bool {
        match &self.shared.writer {
            Writer::Renewer { commands, .. } => commands.is_closed(),
            Writer::Fixed { .. } => false,
        }
    }

    /// Renews now.
    ///
    /// Joins a fetch that is under way. [`Renewed::Newer`] always means another leaf: a change of
    /// roots alone does not count.
    ///
    /// # Errors
    /// - [`RenewError::Limited`]: the last fetch ended less than 1 s ago or, if it failed, less
    ///   than half of the back-off's first step ago, 10 s at most.
    /// - [`RenewError::Stopped`]: the renewer has stopped.
    /// - every other: the renewal was tried and failed. The certificate in use stays.
    ///
    /// # Cancel safety
    /// Cancelled, the renewal goes on.
    pub async fn renew(&self) -> Result<Renewed, RenewError> {
        self.ask(Wish::Renewal, None).await
    }

    /// A handle with which one pool or client reports what servers say to the certificate.
    ///
    /// `name` appears in the log and in [`Event::Refused`]. Each call makes a reporter with a
    /// back-off of its own, so that a server that refuses every certificate is not hidden by
    /// another that accepts them.
    pub fn reporter(&self, name: impl Into<Arc<str>>) -> Reporter {
        Reporter {
            live: self.clone(),
            state: Arc::new(ReporterState::new(name.into())),
        }
    }

    /// Stops the renewer, for every clone of this handle.
    ///
    /// Drops a fetch that is under way. The certificate stays readable until it expires.
    ///
    /// # Errors
    /// [`RenewError::StillRunning`]: the source blocked its thread past the deadline; the task was
    /// aborted.
    ///
    /// # Cancel safety
    /// Cancelled, the renewer still stops.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), RenewError> {
        let Writer::Renewer { commands, task } = &self.shared.writer else {
            return Ok(());
        };
        // An error says that it has stopped already.
        let _ = commands.send(Command::Shutdown);
        // The renewer drops its source first and this channel last.
        match tokio::time::timeout(deadline, commands.closed()).await {
            Ok(()) => Ok(()),
            Err(_elapsed) => {
                task.abort();
                Err(RenewError::StillRunning { after: deadline })
            }
        }
    }

    async fn ask(
        &self,
        wish: Wish,
        reporter: Option<Arc<ReporterState>>,
    ) -> Result<Renewed, RenewError> {
        let Writer::Renewer { commands, .. } = &self.shared.writer else {
            return Ok(Renewed::Unchanged);
        };
        let (reply, outcome) = oneshot::channel();
        let waiter = Waiter {
            wish,
            reporter,
            reply,
        };
        let sent = commands.send(Command::Renew(waiter));
        sent.map_err(|_closed| RenewError::Stopped)?;
        outcome.await.unwrap_or(Err(RenewError::Stopped))
    }
}

fn unavailable(published: &Published) -> Unavailable {
    let last = published.renewal.last_error.clone();
    match &published.snapshot {
        None => Unavailable::NothingYet { last },
        Some(snapshot) => Unavailable::Expired {
            generation: snapshot.generation(),
            not_after: snapshot.not_after(),
            last,
        },
    }
}

impl fmt::Debug for LiveCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveCert")
            .field("current", &self.shared.published.borrow().snapshot)
            .finish_non_exhaustive()
    }
}

/// New generations as they appear; does not keep the renewer alive.
///
/// Never misses the newest generation. Generations only grow; a slow reader skips those in
/// between.
#[derive(Clone, Debug)]
pub struct Rotations {
    published: watch::Receiver<Published>,
    seen: u64,
}

impl Rotations {
    /// The newest snapshot that this handle has not returned yet; the present one at first.
    ///
    /// `None` once the renewer has ended.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        loop {
            // Marked as seen before it is read: a change in between is seen again.
            if let Some(snapshot) = &self.published.borrow_and_update().snapshot
                && snapshot.generation() > self.seen
            {
                self.seen = snapshot.generation();
                return Some(Arc::clone(snapshot));
            }
            self.published.changed().await.ok()?;
        }
    }

    /// The latest snapshot, returned before or not.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.published.borrow().snapshot.clone()
    }
}

/// Reports what servers say to the certificate; made by [`LiveCert::reporter`].
///
/// Clones share one back-off.
#[derive(Clone, Debug)]
pub struct Reporter {
    live: LiveCert,
    state: Arc<ReporterState>,
}

impl Reporter {
    /// Reports that a server refused the certificate of this generation; renews if that may help.
    ///
    /// Returns [`Renewed::Newer`] at once if there is a newer certificate by now. Otherwise it
    /// forces a renewal. If a server refuses that certificate too, renewing is no cure (an
    /// expired CRL makes a server refuse every certificate): the next forced renewal waits for a
    /// twentieth of the usable lifetime (300 s at most), and twice as long each time, until
    /// [`accepted`](Self::accepted) reports a newer generation.
    ///
    /// # Errors
    /// [`RenewError::Limited`] while a back-off is under way; every other as
    /// [`LiveCert::renew`].
    ///
    /// # Cancel safety
    /// Cancelled, the renewal goes on.
    pub async fn refused(&self, generation: u64) -> Result<Renewed, RenewError> {
        let reporter = Some(Arc::clone(&self.state));
        self.live.ask(Wish::NewerThan(generation), reporter).await
    }

    /// Reports that a server accepted the certificate of this generation; ends the back-off if it
    /// is newer than the refused one. Cheap enough for every login.
    pub fn accepted(&self, generation: u64) {
        self.state.accepted(generation);
    }
}

#[cfg(test)]
mod tests;
