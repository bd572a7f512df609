//! The one task that fetches and publishes; everything else reads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::clock::{Clock, Deadline};
use crate::error::RenewError;
use crate::gate::DynGate;
use crate::observe::{Published, Signals};
use crate::schedule::{Backoff, RenewalSchedule};
use crate::snapshot::Snapshot;
use crate::source::{DynSource, FetchReason};
use crate::tls::TlsPolicy;

mod admission;
mod attempt;

pub(crate) use admission::Wish;
use admission::{Admission, Forced, Refusals, Situation, admit};
use attempt::{Held, Mark};

/// No fetch follows a successful one sooner, whatever asks for it and however short a lifetime the
/// CA gives.
///
/// After a failure half of the back-off's first step takes its place, ten seconds at most.
const SHORTEST_FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// The outcome of a renewal that succeeded.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub enum Renewed {
    /// A newer certificate is in use.
    Newer(Arc<Snapshot>),
    /// The source delivered the certificate that is already in use.
    Unchanged,
}

type Renewal = Result<Renewed, RenewError>;

#[derive(Debug)]
pub(crate) enum Command {
    Renew(Waiter),
    Shutdown,
}

/// A caller that waits for a renewal.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) wish: Wish,
    /// Who reports a refusal; `None` for every other wish.
    pub(crate) reporter: Option<Arc<ReporterState>>,
    pub(crate) reply: oneshot::Sender<Renewal>,
}

impl Waiter {
    fn answer(self, renewal: Renewal) {
        // A waiter that was cancelled harms nothing.
        let _ = self.reply.send(renewal);
    }
}

/// What a [`Reporter`](crate::Reporter) and the renewer share.
#[derive(Debug)]
pub(crate) struct ReporterState {
    pub(crate) name: Arc<str>,
    refusals: Mutex<Refusals>,
}

impl ReporterState {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            refusals: Mutex::default(),
        }
    }

    pub(crate) fn accepted(&self, generation: u64) {
        self.refusals().accepted(generation);
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when all command senders are dropped or at [`Command::Shutdown`], and never before.
pub(crate) struct Renewer {
    pub(crate) source: Arc<dyn DynSource>,
    pub(crate) gate: Option<Box<dyn DynGate>>,
    pub(crate) schedule: RenewalSchedule,
    pub(crate) tls: Arc<TlsPolicy>,
    pub(crate) clock: Clock,
    pub(crate) fetch_timeout: Duration,
    pub(crate) published: watch::Sender<Published>,
    pub(crate) signals: Signals,
    pub(crate) memory: Memory,
}

/// What the renewer remembers between two attempts.
#[derive(Default)]
pub(crate) struct Memory {
    /// Fetched, but not to be published now.
    held: Option<Held>,
    /// The marks of the certificate in use that lie ahead, the nearest first.
    marks: Vec<(Deadline, Mark)>,
    /// The last renewal that any refusal forced.
    forced: Option<Forced>,
    /// When the source was last asked for more than roots.
    last_fetch: Option<Instant>,
}

/// The last handle was dropped, or shutdown was requested.
struct Stop;

impl Renewer {
    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut reason = FetchReason::Start;
        let mut waiters = Vec::new();
        loop {
            let Ok(renewal) = self.attempt_once(reason, &mut commands, &mut waiters).await else {
                return;
            };
            let ended = Instant::now();
            // Other roots for the same leaf cost the CA nothing, and cure no refusal: the next
            // fetch need not wait, and callers that want another leaf are admitted anew.
            let roots_only = matches!(&renewal, Ok(Renewed::Newer(snapshot))
                if snapshot.leaf_since() < snapshot.generation());
            if !(roots_only && reason == FetchReason::Changed) {
                self.memory.last_fetch = Some(ended);
            }
            let mut unanswered = Vec::new();
            for waiter in waiters.drain(..) {
                self.note_refusal(&waiter);
                if roots_only && waiter.wish != Wish::Valid {
                    unanswered.push(waiter);
                } else {
                    waiter.answer(renewal.clone());
                }
            }
            reason = match self
                .idle(ended, unanswered, &mut commands, &mut waiters)
                .await
            {
                Ok(reason) => reason,
                Err(Stop) => return,
            };
        }
    }

    /// Tries once. Callers that want a renewal meanwhile join this attempt.
    async fn attempt_once(
        &mut self,
        reason: FetchReason,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        waiters: &mut Vec<Waiter>,
    ) -> Result<Renewal, Stop> {
        let attempt = self.attempt(reason);
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                renewal = &mut attempt => return Ok(renewal),
                command = commands.recv() => match command {
                    Some(Command::Renew(waiter)) => waiters.push(waiter),
                    Some(Command::Shutdown) | None => return Err(Stop),
                },
            }
        }
    }

    /// Waits until there is a reason to fetch, and reports the marks that pass meanwhile.
    async fn idle(
        &mut self,
        ended: Instant,
        unanswered: Vec<Waiter>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        waiters: &mut Vec<Waiter>,
    ) -> Result<FetchReason, Stop> {
        let current = self.current();
        let backoff = backoff(current.as_deref());
        let due = self.next_fetch();
        let spacing = if self.failures() == 0 {
            SHORTEST_FETCH_INTERVAL
        } else {
            backoff.shortest_wait()
        };
        for waiter in unanswered {
            if let Some(reason) = self.admit(waiter, due, spacing, backoff.cap(), waiters) {
                return Ok(reason);
            }
        }
        let look =
            Clock::longest_sleep(current.map(|snapshot| snapshot.usable_lifetime().length()));
        // One future for all that passes meanwhile, so that the source's work is not begun anew.
        let source = Arc::clone(&self.source);
        let changed = changed(&*source, ended + spacing);
        tokio::pin!(changed);
        loop {
            let mark = self.memory.marks.first().map(|(deadline, _)| *deadline);
            let next = mark.map_or(due, |mark| mark.min(due));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Renew(waiter)) => {
                        self.note_refusal(&waiter);
                        let admitted = self.admit(waiter, due, spacing, backoff.cap(), waiters);
                        if let Some(reason) = admitted {
                            return Ok(reason);
                        }
                    }
                    Some(Command::Shutdown) | None => return Err(Stop),
                },
                () = self.clock.sleep_until(next, look) => {
                    let now = self.clock.moment();
                    let is_due = due.has_passed(now);
                    match mark {
                        Some(mark) if mark.has_passed(now) && (!is_due || mark.is_before(due)) => {
                            self.pass_mark();
                        }
                        _ if is_due => {
                            let has_one = self.published.borrow().snapshot.is_some();
                            return Ok(if has_one { FetchReason::Due } else { FetchReason::Start });
                        }
                        // The wall clock was set back since.
                        _ => {}
                    }
                }
                () = &mut changed => return Ok(FetchReason::Changed),
            }
        }
    }

    /// The reason to fetch for this waiter, which then waits for it; otherwise its answer is sent.
    fn admit(
        &mut self,
        waiter: Waiter,
        due: Deadline,
        spacing: Duration,
        cap: Duration,
        waiters: &mut Vec<Waiter>,
    ) -> Option<FetchReason> {
        let now = Instant::now();
        let current = self.current();
        let leaf_since = current.as_ref().map(|snapshot| snapshot.leaf_since());
        // What is held takes the place of a refused certificate at once.
        let is_spare_held = matches!(self.memory.held, Some(Held::NotYetValid { .. }));
        let takes_spare = is_spare_held && matches!(waiter.wish, Wish::NewerThan(_));
        let pause = if self.published.borrow().renewal.pausing && !takes_spare {
            due.left(self.clock.moment())
        } else {
            Duration::ZERO
        };
        let back_off = waiter.reporter.as_ref().map_or(Duration::ZERO, |reporter| {
            let first_step = self.memory.forced.zip(leaf_since);
            let first_step = first_step.map(|(forced, leaf)| forced.first_step(leaf, now, cap));
            let own = reporter.refusals().back_off(now, cap);
            own.max(first_step.unwrap_or_default())
        });
        let situation = Situation {
            leaf_since,
            rest: self.memory.last_fetch.map_or(Duration::ZERO, |last| {
                spacing.saturating_sub(now.saturating_duration_since(last))
            }),
            pause,
            back_off,
        };
        match (admit(waiter.wish, &situation), current) {
            (Admission::Fetch(reason), current) => {
                if let (Wish::NewerThan(refused), Some(reporter)) = (waiter.wish, &waiter.reporter)
                {
                    let newest = current.map_or(refused, |current| current.generation());
                    self.memory.forced = Some(reporter.refusals().force(newest, now));
                }
                waiters.push(waiter);
                return Some(reason);
            }
            (Admission::HaveNewer, Some(newer)) => waiter.answer(Ok(Renewed::Newer(newer))),
            (Admission::Limited { retry_in }, _) => {
                waiter.answer(Err(RenewError::Limited { retry_in }));
            }
            // Only a certificate in use can be newer than the refused one.
            (Admission::HaveNewer, None) => waiter.answer(Err(RenewError::Stopped)),
        }
        None
    }

    /// Reports a refusal once for each reporter and generation.
    fn note_refusal(&self, waiter: &Waiter) {
        if let (Wish::NewerThan(generation), Some(reporter)) = (waiter.wish, &waiter.reporter)
            && reporter.refusals().is_news(generation)
        {
            self.signals.refused(generation, &reporter.name);
        }
    }
}

/// Resolves with the source's `changed`, but never before `not_before`: a source that is always
/// ready must not make a hot loop.
async fn changed(source: &dyn DynSource, not_before: Instant) {
    let changed = std::panic::AssertUnwindSafe(async { source.changed().await });
    if changed.catch_unwind().await.is_err() {
        // The source is asked when a fetch is due all the same.
        return std::future::pending().await;
    }
    tokio::time::sleep_until(not_before).await;
}

fn backoff(current: Option<&Snapshot>) -> Backoff {
    Backoff::of(current.map(Snapshot::usable_lifetime).as_ref())
}
