use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::clock::{Clock, remaining};
use crate::error::RenewError;
use crate::material::CertMaterial;
use crate::schedule::{Backoff, Failure};
use crate::snapshot::Snapshot;
use crate::source::{Ask, DynSource, Why};
use crate::status::Progress;
use crate::tls::TlsPolicy;

/// No two fetches are closer than this, whoever asks and however short a life the CA gives.
pub const SHORTEST_FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// Failures in a row that are logged as warnings before they fall to debug.
const LOUD_FAILURES: u32 = 3;

/// What a renewal that somebody asked for came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Renewal {
    /// A new snapshot was published.
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
        why: Why,
        reply: oneshot::Sender<Renewal>,
    },
    Shutdown,
}

/// The one task that fetches and publishes; everybody else reads.
///
/// It ends when all command senders are dropped or at [`Command::Shutdown`], and never before.
pub(crate) struct Renewer {
    pub(crate) source: Box<dyn DynSource>,
    pub(crate) tls: TlsPolicy,
    pub(crate) clock: Clock,
    pub(crate) fetch_timeout: Duration,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    pub(crate) progress: watch::Sender<Progress>,
}

/// Everybody has let go, or shutdown was asked for.
struct Stop;

impl Renewer {
    pub(crate) async fn run(mut self) {
        let mut why = Why::Start;
        let mut waiters = Vec::new();
        loop {
            let Ok(fetched) = self.fetch(why, &mut waiters).await else {
                return;
            };
            let ended = Instant::now();
            let outcome = self.settle(fetched);
            for waiter in waiters.drain(..) {
                // A waiter that was cancelled harms nobody.
                let _gone = waiter.send(outcome.clone());
            }
            why = match self.idle(ended, &mut waiters).await {
                Ok(why) => why,
                Err(Stop) => return,
            };
        }
    }

    /// Asks the source once. Whoever asks for a renewal meanwhile waits for this same fetch.
    async fn fetch(
        &mut self,
        why: Why,
        waiters: &mut Vec<oneshot::Sender<Renewal>>,
    ) -> Result<Result<CertMaterial, RenewError>, Stop> {
        let current = self.snapshots.borrow().clone();
        let ask = Ask {
            why,
            current: current.as_deref(),
        };
        let fetch = tokio::time::timeout(self.fetch_timeout, self.source.fetch(ask));
        tokio::pin!(fetch);
        loop {
            tokio::select! {
                fetched = &mut fetch => {
                    let after = self.fetch_timeout;
                    return Ok(match fetched {
                        Ok(fetched) => fetched.map_err(RenewError::Source),
                        Err(_elapsed) => Err(RenewError::TimedOut { after }),
                    });
                }
                command = self.commands.recv() => match command {
                    Some(Command::Renew { reply, .. }) => waiters.push(reply),
                    Some(Command::Shutdown) | None => return Err(Stop),
                },
            }
        }
    }

    /// Checks and publishes what was fetched, and notes when to ask again.
    fn settle(&self, fetched: Result<CertMaterial, RenewError>) -> Renewal {
        let now = self.clock.now();
        let current = self.snapshots.borrow().clone();
        if let (Ok(material), Some(current)) = (&fetched, &current)
            && current.is_made_of(material)
        {
            self.note_unchanged(current, now);
            return Renewal::Unchanged;
        }
        let built = fetched.and_then(|material| {
            Snapshot::build(material, current.as_deref(), now, &self.tls)
                .map_err(RenewError::Material)
        });
        match built {
            Ok(snapshot) => Renewal::Newer(self.publish(snapshot, now)),
            Err(error) => Renewal::Failed(self.note_failure(error, current.as_deref(), now)),
        }
    }

    fn publish(&self, snapshot: Snapshot, now: SystemTime) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        let next_fetch = snapshot.renewal_point().max(now + SHORTEST_FETCH_INTERVAL);
        tracing::info!(
            generation = snapshot.generation(),
            serial = %snapshot.serial(),
            remaining = ?snapshot.remaining(now),
            renewal_in = ?remaining(now, next_fetch),
            "certificate rotated"
        );
        // Progress first: whoever sees the new generation must not see the old failure.
        self.progress.send_replace(Progress {
            next_fetch: Some(next_fetch),
            ..Progress::default()
        });
        self.snapshots.send_replace(Some(Arc::clone(&snapshot)));
        snapshot
    }

    /// The source has nothing newer: not a failure, but past the renewal point it is asked again.
    fn note_unchanged(&self, current: &Snapshot, now: SystemTime) {
        let pause = Failure {
            in_a_row: 1,
            transient: false,
            requested_wait: None,
            remaining: current.remaining(now),
        };
        let next_fetch = current
            .renewal_point()
            .max(now + self.wait(Some(current), &pause));
        self.progress.send_replace(Progress {
            next_fetch: Some(next_fetch),
            ..Progress::default()
        });
    }

    fn note_failure(
        &self,
        error: RenewError,
        current: Option<&Snapshot>,
        now: SystemTime,
    ) -> Arc<RenewError> {
        let in_a_row = self
            .progress
            .borrow()
            .consecutive_failures
            .saturating_add(1);
        let left = current.map_or(Duration::ZERO, |snapshot| snapshot.remaining(now));
        let failure = Failure {
            in_a_row,
            transient: error.is_transient(),
            requested_wait: error.requested_wait(),
            remaining: left,
        };
        let wait = self.wait(current, &failure);
        let error = Arc::new(error);
        let causes = Causes(&error);
        if current.is_some() && left.is_zero() {
            tracing::error!(error = %causes, in_a_row, retry_in = ?wait, "no valid certificate is left");
        } else if in_a_row <= LOUD_FAILURES {
            tracing::warn!(error = %causes, in_a_row, remaining = ?left, retry_in = ?wait, "renewal failed");
        } else {
            tracing::debug!(error = %causes, in_a_row, remaining = ?left, retry_in = ?wait, "renewal failed");
        }
        self.progress.send_replace(Progress {
            next_fetch: Some(now + wait),
            consecutive_failures: in_a_row,
            last_error: Some(Arc::clone(&error)),
        });
        error
    }

    fn wait(&self, current: Option<&Snapshot>, failure: &Failure) -> Duration {
        backoff(current).wait(failure, rand::random())
    }

    /// Waits until there is a reason to fetch.
    async fn idle(
        &mut self,
        last_fetch: Instant,
        waiters: &mut Vec<oneshot::Sender<Renewal>>,
    ) -> Result<Why, Stop> {
        let (due, failures) = {
            let progress = self.progress.borrow();
            (progress.next_fetch, progress.consecutive_failures)
        };
        let due = due.unwrap_or_else(|| self.clock.now());
        let spacing = if failures == 0 {
            SHORTEST_FETCH_INTERVAL
        } else {
            backoff(self.snapshots.borrow().as_deref()).shortest_wait()
        };
        let first = if self.snapshots.borrow().is_none() {
            Why::Start
        } else {
            Why::Due
        };
        let clock = self.clock.clone();
        let sleep = clock.sleep_until(due);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Renew { why, reply }) => {
                        let rested = last_fetch.elapsed() >= spacing;
                        // Callers that merely need a certificate do not cut the backoff short:
                        // a busy pool would turn it into a storm.
                        let backing_off = failures > 0 && clock.now() < due;
                        if rested && (why == Why::Asked || !backing_off) {
                            waiters.push(reply);
                            return Ok(why);
                        }
                        let _gone = reply.send(Renewal::Limited);
                    }
                    Some(Command::Shutdown) | None => return Err(Stop),
                },
                () = &mut sleep => return Ok(first),
                () = changed(&*self.source, last_fetch + spacing), if failures == 0 => {
                    return Ok(Why::Changed);
                }
            }
        }
    }
}

/// A source that always says "changed" must not make a hot loop.
async fn changed(source: &dyn DynSource, not_before: Instant) {
    source.changed().await;
    tokio::time::sleep_until(not_before).await;
}

fn backoff(current: Option<&Snapshot>) -> Backoff {
    Backoff::for_life(current.map(|snapshot| snapshot.usable_life().length()))
}

/// An error with its causes on one line.
struct Causes<'a>(&'a RenewError);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
