use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::admission::{Admission, Facts, Wish, admit};
use crate::attempt::Attempts;
use crate::clock::Ticker;
use crate::error::RenewError;
use crate::schedule::Backoff;
use crate::snapshot::Snapshot;
use crate::source::{DynSource, Why};
use crate::unwind::contained;

/// No fetch follows a successful one sooner, whoever asks and however short a life the CA gives.
///
/// After a failure half of the backoff's first step takes its place,
/// 10 s at most.
pub const SHORTEST_FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// What a renewal that somebody asked for came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Renewal {
    /// There is a newer snapshot.
    Newer(Arc<Snapshot>),
    /// The source delivered what is in use already.
    Unchanged,
    /// Not tried: the last fetch was too short a while ago.
    Limited,
    /// Tried, and failed; the certificate in use stays.
    Failed(Arc<RenewError>),
    /// Not tried: the renewer was shut down.
    Stopped,
}

#[derive(Debug)]
pub(crate) enum Command {
    Renew {
        wish: Wish,
        reply: oneshot::Sender<Renewal>,
    },
    Shutdown,
}

type Waiters = Vec<oneshot::Sender<Renewal>>;

/// The one task that fetches and publishes; everybody else reads.
///
/// It ends when all command senders are dropped or at [`Command::Shutdown`], and never before.
pub(crate) struct Renewer {
    pub(crate) attempts: Attempts,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) ticker: Ticker,
    /// The generation that a server refused, and when a fetch was forced for it.
    pub(crate) forced: Option<(u64, Instant)>,
    /// When the source was last asked for more than roots.
    pub(crate) last_fetch: Instant,
    /// The newest generation whose refusal has been told: each is told once, whoever reports it.
    pub(crate) refusal_told: u64,
}

/// Everybody has let go, or shutdown was asked for.
struct Stop;

impl Renewer {
    pub(crate) async fn run(mut self) {
        let mut why = Why::Start;
        let mut waiters = Waiters::new();
        loop {
            let Ok(renewal) = self.attempt(why, &mut waiters).await else {
                return;
            };
            let ended = Instant::now();
            // Other roots for the same leaf have cost a CA nothing: nobody has to wait for that.
            let reused = |snapshot: Arc<Snapshot>| snapshot.leaf_since() < snapshot.generation();
            if why != Why::Changed || !self.attempts.current().is_some_and(reused) {
                self.last_fetch = ended;
            }
            for waiter in waiters.drain(..) {
                // A waiter that was cancelled harms nobody.
                let _gone = waiter.send(renewal.clone());
            }
            why = match self.idle(ended, &mut waiters).await {
                Ok(why) => why,
                Err(Stop) => return,
            };
        }
    }

    /// Tries once. Whoever asks for a renewal meanwhile waits for this same attempt.
    async fn attempt(&mut self, why: Why, waiters: &mut Waiters) -> Result<Renewal, Stop> {
        let attempt = self.attempts.attempt(why);
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                renewal = &mut attempt => return Ok(renewal),
                command = self.commands.recv() => match command {
                    Some(Command::Renew { reply, .. }) => waiters.push(reply),
                    Some(Command::Shutdown) | None => return Err(Stop),
                },
            }
        }
    }

    /// Waits until there is a reason to fetch, and tells of what passes meanwhile.
    async fn idle(&mut self, ended: Instant, waiters: &mut Waiters) -> Result<Why, Stop> {
        let current = self.attempts.current();
        let failures = self.attempts.failures();
        // Both clocks' deadlines are taken once: looking again after the wall clock was set back
        // would prolong the wait.
        let due = self.attempts.clock.deadline(self.attempts.next_fetch());
        let spacing = if failures == 0 {
            SHORTEST_FETCH_INTERVAL
        } else {
            backoff(current.as_deref()).shortest_wait()
        };
        // One for all that passes meanwhile: what the source does in it is not begun anew.
        let source = Arc::clone(&self.attempts.source);
        let changed = changed(&*source, ended + spacing);
        tokio::pin!(changed);
        loop {
            let mark = self.attempts.marks.first().map(|(deadline, _)| *deadline);
            let next = mark.filter(|mark| mark.at() < due.at()).unwrap_or(due);
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Renew { wish, reply }) => {
                        let facts = Facts {
                            current: current.as_ref().map(|snapshot| snapshot.leaf_since()),
                            rested: self.last_fetch.elapsed() >= spacing,
                            pausing: self.attempts.pausing() && self.attempts.clock.now() < due.at(),
                            forced_before: self.forced_before(current.as_deref()),
                        };
                        self.note(wish);
                        match (admit(wish, &facts), &current) {
                            (Admission::Fetch(why), _) => {
                                waiters.push(reply);
                                if let (Why::Rejected, Wish::NewerThan(generation)) = (why, wish) {
                                    let newest = current.as_ref().map_or(generation, |c| c.generation());
                                    self.forced = Some((newest, Instant::now()));
                                }
                                return Ok(why);
                            }
                            (Admission::HaveNewer, Some(newer)) => {
                                let _gone = reply.send(Renewal::Newer(Arc::clone(newer)));
                            }
                            _ => {
                                let _gone = reply.send(Renewal::Limited);
                            }
                        }
                    }
                    Some(Command::Shutdown) | None => return Err(Stop),
                },
                () = self.ticker.sleep_until(next) => {
                    if next == due {
                        return Ok(if current.is_some() { Why::Due } else { Why::Start });
                    }
                    self.attempts.pass_mark();
                }
                () = &mut changed => {
                    return Ok(Why::Changed);
                }
                () = refresh() => self.attempts.refresh(),
            }
        }
    }

    /// Whether a fetch was forced for this generation, or brought it, less than a capped wait ago.
    fn forced_before(&self, current: Option<&Snapshot>) -> bool {
        self.forced.is_some_and(|(generation, at)| {
            current.is_some_and(|snapshot| snapshot.leaf_since() <= generation + 1)
                && at.elapsed() < backoff(current).cap()
        })
    }

    fn note(&mut self, wish: Wish) {
        if let Wish::NewerThan(generation) = wish
            && generation > self.refusal_told
        {
            self.refusal_told = generation;
            self.attempts.rejected(generation);
        }
    }
}

/// A source that always says "changed" must not make a hot loop; one that panics is not heard.
async fn changed(source: &dyn DynSource, not_before: Instant) {
    if contained(source.changed()).await.is_err() {
        // It is asked when it is due all the same.
        return std::future::pending().await;
    }
    tokio::time::sleep_until(not_before).await;
}

/// When the metrics that run with the clock are told again.
async fn refresh() {
    match crate::metrics::REFRESH {
        Some(interval) => tokio::time::sleep(interval).await,
        None => std::future::pending().await,
    }
}

fn backoff(current: Option<&Snapshot>) -> Backoff {
    Backoff::of(current.map(Snapshot::usable_lifetime).as_ref())
}
