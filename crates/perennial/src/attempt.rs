use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{Clock, Deadline};
use crate::error::RenewError;
use crate::gate::{DynGate, Verdict, verdict};
use crate::material::{CertMaterial, MaterialError};
use crate::renewer::{Renewal, SHORTEST_FETCH_INTERVAL};
use crate::schedule::{Backoff, Failure, RETRY_CAP_BOUNDS, RenewalSchedule};
use crate::signals::{Failed, Outcome, Signals};
use crate::snapshot::Snapshot;
use crate::source::{Ask, DynSource, Why};
use crate::status::Progress;
use crate::tls::TlsPolicy;
use crate::unwind::{Panicked, contained};

/// Fetch, check, gate, publish: one attempt at a time, and what it leaves behind.
pub(crate) struct Attempts {
    pub(crate) source: Arc<dyn DynSource>,
    pub(crate) gate: Option<Box<dyn DynGate>>,
    pub(crate) schedule: RenewalSchedule,
    pub(crate) tls: TlsPolicy,
    pub(crate) clock: Clock,
    pub(crate) fetch_timeout: Duration,
    pub(crate) snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) signals: Signals,
    pub(crate) held: Option<Held>,
    /// The marks of the certificate in use that have not been told, the nearest first.
    pub(crate) marks: Vec<(Deadline, Mark)>,
}

/// Fetched, but not to be published now; tried again instead of being fetched again.
pub(crate) enum Held {
    /// The gate refused it.
    Refused(Box<Snapshot>),
    /// Its validity has not begun.
    NotYetValid {
        material: CertMaterial,
        not_before: SystemTime,
    },
}

/// A moment in a certificate's life that is told when it passes unrenewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    RenewalPoint,
    ExpiresSoon,
    Expiry,
}

/// Why there is nothing to publish.
enum Miss {
    /// The source has what is in use.
    Unchanged,
    Failed(RenewError),
}

impl Attempts {
    pub(crate) async fn attempt(&mut self, why: Why) -> Renewal {
        let began = Instant::now();
        let (renewal, outcome) = match self.candidate(why).await {
            Err(Miss::Unchanged) => (self.note_unchanged(), Outcome::Unchanged),
            Err(Miss::Failed(error)) => (self.note_failure(error), Outcome::Failed),
            Ok(candidate) => match verdict(self.gate.as_deref(), &candidate).await {
                Verdict::Refuse(cause) => {
                    self.held = Some(Held::Refused(Box::new(candidate)));
                    (
                        self.note_failure(RenewError::Refused(cause)),
                        Outcome::Refused,
                    )
                }
                Verdict::Accept => (self.publish(candidate, why), Outcome::Rotated),
                Verdict::CannotTell(cause) => {
                    self.signals
                        .gate_cannot_tell(candidate.generation(), &*cause);
                    (self.publish(candidate, why), Outcome::Rotated)
                }
            },
        };
        self.signals
            .fetched(outcome, began.elapsed(), self.failures());
        // Failing often, the renewer never idles long enough for the metrics' own pace.
        self.refresh();
        renewal
    }

    /// A checked snapshot: the one that is held, if it is time for it, or a fetched one.
    async fn candidate(&mut self, why: Why) -> Result<Snapshot, Miss> {
        let now = self.clock.now();
        let by_itself = matches!(why, Why::Start | Why::Due);
        match self.held.take() {
            Some(Held::Refused(candidate)) if by_itself && now < self.renewal_point(&candidate) => {
                return Ok(*candidate);
            }
            Some(Held::NotYetValid {
                material,
                not_before,
            }) if by_itself && not_before <= now => return self.check(material),
            _ => {}
        }
        let current = self.current();
        let ask = Ask::new(why, current.as_deref());
        let fetch = contained(self.source.fetch(ask));
        match tokio::time::timeout(self.fetch_timeout, fetch).await {
            Ok(Ok(Ok(material))) => self.check(material),
            Ok(Ok(Err(error))) => Err(Miss::Failed(RenewError::Source(error))),
            Ok(Err(Panicked)) => Err(Miss::Failed(RenewError::Panicked)),
            Err(_elapsed) => Err(Miss::Failed(RenewError::TimedOut {
                after: self.fetch_timeout,
            })),
        }
    }

    fn check(&mut self, material: CertMaterial) -> Result<Snapshot, Miss> {
        let current = self.current();
        if current
            .as_ref()
            .is_some_and(|current| current.is_made_of(&material))
        {
            return Err(Miss::Unchanged);
        }
        let now = self.clock.now();
        let snapshot = match Snapshot::build(&material, current.as_deref(), now, &self.tls) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                if let MaterialError::NotYetValid { not_before } = error {
                    self.held = Some(Held::NotYetValid {
                        material,
                        not_before,
                    });
                }
                return Err(Miss::Failed(RenewError::Material(error)));
            }
        };
        // A first certificate that cannot keep the policy's promise is refused; a later one is
        // better than none.
        if current.is_none() {
            let point = self
                .schedule
                .renewal_point(&snapshot.usable_lifetime(), snapshot.leaf_sha256());
            point.map_err(|error| Miss::Failed(RenewError::LifetimeTooShort(error)))?;
        }
        Ok(snapshot)
    }

    fn publish(&mut self, snapshot: Snapshot, why: Why) -> Renewal {
        let now = self.clock.now();
        let snapshot = Arc::new(snapshot);
        let renewal_point = self.renewal_point(&snapshot);
        let next_fetch = renewal_point.max(now + SHORTEST_FETCH_INTERVAL);
        // Progress first: whoever sees the new generation must not see the old failure.
        self.progress.send_replace(Progress {
            next_fetch: Some(next_fetch),
            renewal_point: Some(renewal_point),
            ..Progress::default()
        });
        self.snapshots.send_replace(Some(Arc::clone(&snapshot)));
        self.marks = [
            (renewal_point, Mark::RenewalPoint),
            (snapshot.usable_lifetime().warn_at(), Mark::ExpiresSoon),
            (snapshot.not_after(), Mark::Expiry),
        ]
        .map(|(at, mark)| (self.clock.deadline(at), mark))
        .to_vec();
        self.signals.rotated(&snapshot, why, now, next_fetch);
        Renewal::Newer(snapshot)
    }

    /// The source has nothing newer: not a failure, but past the renewal point it is asked again.
    fn note_unchanged(&self) -> Renewal {
        let now = self.clock.now();
        let Some(current) = self.current() else {
            return Renewal::Unchanged;
        };
        if now >= current.not_after() {
            return self.note_failure(RenewError::StillExpired);
        }
        let pause = Failure {
            in_a_row: 1,
            transient: false,
            requested_wait: None,
            remaining: current.remaining(now),
        };
        let renewal_point = self.renewal_point(&current);
        self.progress.send_replace(Progress {
            next_fetch: Some(renewal_point.max(now + self.wait(Some(&current), &pause))),
            renewal_point: Some(renewal_point),
            pausing: true,
            ..Progress::default()
        });
        Renewal::Unchanged
    }

    fn note_failure(&self, error: RenewError) -> Renewal {
        let now = self.clock.now();
        let current = self.current();
        let left = current
            .as_ref()
            .map_or(Duration::ZERO, |current| current.remaining(now));
        let in_a_row = self.failures().saturating_add(1);
        let failure = Failure {
            in_a_row,
            transient: error.is_transient(),
            requested_wait: error.requested_wait(),
            remaining: left,
        };
        let wait = match &error {
            // Held: it is tried when its time comes, not fetched again before.
            RenewError::Material(MaterialError::NotYetValid { not_before })
                if crate::clock::remaining(now, *not_before) <= RETRY_CAP_BOUNDS.1 =>
            {
                crate::clock::remaining(now, *not_before)
            }
            _ => self.wait(current.as_deref(), &failure),
        };
        let error = Arc::new(error);
        self.progress.send_modify(|progress| {
            progress.next_fetch = Some(now + wait);
            progress.pausing = true;
            progress.consecutive_failures = in_a_row;
            progress.last_error = Some(Arc::clone(&error));
        });
        let failed = Failed {
            in_a_row,
            left,
            wait,
            retry_at: now + wait,
            has_expired: current.is_some() && left.is_zero(),
        };
        self.signals.failed(&error, &failed);
        Renewal::Failed(error)
    }

    fn wait(&self, current: Option<&Snapshot>, failure: &Failure) -> Duration {
        let lifetime = current.map(Snapshot::usable_lifetime);
        Backoff::of(lifetime.as_ref()).wait(failure, rand::random())
    }

    /// By the policy; where that cannot keep its promise, as early as any policy may.
    fn renewal_point(&self, snapshot: &Snapshot) -> SystemTime {
        let lifetime = snapshot.usable_lifetime();
        match self.schedule.renewal_point(&lifetime, snapshot.leaf_sha256()) {
            Ok(point) => point,
            Err(too_short) => {
                tracing::warn!(error = %too_short, "the certificate is renewed as early as can be");
                lifetime.earliest_renewal()
            }
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }

    pub(crate) fn failures(&self) -> u32 {
        self.progress.borrow().consecutive_failures
    }

    /// Whether the last attempt published nothing, and so a pause is on.
    pub(crate) fn pausing(&self) -> bool {
        self.progress.borrow().pausing
    }

    pub(crate) fn next_fetch(&self) -> SystemTime {
        let next = self.progress.borrow().next_fetch;
        next.unwrap_or_else(|| self.clock.now())
    }

    /// Tells of the nearest mark, which has passed.
    pub(crate) fn pass_mark(&mut self) {
        let Some(current) = self.current() else {
            return;
        };
        match self.marks.remove(0).1 {
            Mark::RenewalPoint => {}
            Mark::ExpiresSoon => self.signals.expiring_soon(&current, self.clock.now()),
            Mark::Expiry => self.signals.expired(&current),
        }
        // Those who wait for a change of status look again.
        self.progress.send_modify(|_same| {});
        self.refresh();
    }

    /// Tells again what runs with the clock.
    pub(crate) fn refresh(&self) {
        if let Some(current) = self.current() {
            let renewal_point = self.progress.borrow().renewal_point;
            self.signals
                .still_in_use(&current, renewal_point, self.clock.now());
        }
    }

    pub(crate) fn rejected(&self, generation: u64) {
        self.signals.rejected(generation);
    }
}
