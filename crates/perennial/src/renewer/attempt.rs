//! Fetch, check, gate, publish: one attempt, and the state that it leaves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Renewed, Renewer, SHORTEST_FETCH_INTERVAL};
use crate::clock::remaining;
use crate::error::{RenewError, SourceError};
use crate::gate::{Verdict, verdict};
use crate::material::{CertMaterial, MaterialError};
use crate::observe::{Failed, Outcome, Renewal};
use crate::schedule::{Failure, RETRY_CAP_BOUNDS};
use crate::snapshot::Snapshot;
use crate::source::{FetchContext, FetchReason, Fetched};

/// Fetched, but not to be published now; tried again instead of being fetched again.
pub(super) enum Held {
    /// The gate refused it.
    Refused(Box<Snapshot>),
    /// Its validity has not begun.
    NotYetValid {
        material: Arc<CertMaterial>,
        not_before: SystemTime,
    },
}

/// A moment in a certificate's lifetime that is reported when it passes without a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    ExpiresSoon,
    Expiry,
}

/// Why there is nothing to publish.
enum Miss {
    /// The source has what is in use.
    Unchanged,
    Failed(RenewError),
}

impl Renewer {
    pub(super) async fn attempt(&mut self, reason: FetchReason) -> Result<Renewed, RenewError> {
        let began = Instant::now();
        let (result, outcome) = match self.candidate(reason).await {
            Err(Miss::Unchanged) => self.note_unchanged(),
            Err(Miss::Failed(error)) => (Err(self.note_failure(error)), Outcome::Failed),
            Ok(candidate) => match verdict(self.gate.as_deref(), &candidate).await {
                Verdict::Refuse(cause) => {
                    self.memory.held = Some(Held::Refused(Box::new(candidate)));
                    let error = RenewError::Refused(cause.into());
                    (Err(self.note_failure(error)), Outcome::Refused)
                }
                Verdict::Accept => (Ok(self.publish(candidate, reason)), Outcome::Rotated),
                Verdict::Inconclusive(cause) => {
                    let generation = candidate.generation();
                    self.signals.gate_inconclusive(generation, &*cause);
                    (Ok(self.publish(candidate, reason)), Outcome::Rotated)
                }
            },
        };
        self.signals
            .attempted(outcome, began.elapsed(), self.failures());
        result
    }

    /// A checked snapshot: the held one, if its time has come, or a fetched one.
    async fn candidate(&mut self, reason: FetchReason) -> Result<Snapshot, Miss> {
        let now = self.clock.now();
        let scheduled = matches!(reason, FetchReason::Start | FetchReason::Due);
        match self.memory.held.take() {
            Some(Held::Refused(candidate)) if scheduled && now < self.renewal_point(&candidate) => {
                return Ok(*candidate);
            }
            Some(Held::NotYetValid {
                material,
                not_before,
            }) if scheduled && not_before <= now => return self.check(material),
            _ => {}
        }
        let current = self.current();
        let context = FetchContext::new(reason, current.as_deref());
        // A panic of the source must not end the renewer. What the source shares is its own.
        let fetch = AssertUnwindSafe(self.source.fetch(context)).catch_unwind();
        let fetched = match tokio::time::timeout(self.fetch_timeout, fetch).await {
            Ok(Ok(Ok(fetched))) => fetched,
            Ok(Ok(Err(error))) => return Err(Miss::Failed(RenewError::Source(error))),
            Ok(Err(_panic)) => return Err(Miss::Failed(RenewError::Panicked)),
            Err(_elapsed) => {
                let after = self.fetch_timeout;
                return Err(Miss::Failed(RenewError::TimedOut { after }));
            }
        };
        let material = match (fetched, &current) {
            (Fetched::Certificate(material), _) => material,
            (Fetched::Roots(roots), Some(current)) => current
                .material()
                .with_other_roots(roots)
                .map_err(|error| Miss::Failed(RenewError::Material(error)))?,
            (Fetched::Roots(_), None) => {
                let error = SourceError::invalid("it delivered roots without a certificate");
                return Err(Miss::Failed(RenewError::Source(error)));
            }
        };
        self.check(Arc::new(material))
    }

    fn check(&mut self, material: Arc<CertMaterial>) -> Result<Snapshot, Miss> {
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
                    self.memory.held = Some(Held::NotYetValid {
                        material,
                        not_before,
                    });
                }
                return Err(Miss::Failed(RenewError::Material(error)));
            }
        };
        // A first certificate that cannot keep the schedule's promise is refused; a later one is
        // better than none.
        if current.is_none() {
            self.schedule
                .renewal_point(&snapshot.usable_lifetime(), snapshot.leaf_sha256())
                .map_err(Miss::Failed)?;
        }
        Ok(snapshot)
    }

    fn publish(&mut self, snapshot: Snapshot, reason: FetchReason) -> Renewed {
        let now = self.clock.now();
        let snapshot = Arc::new(snapshot);
        let renewal_point = self.renewal_point(&snapshot);
        let next_fetch = renewal_point.max(now + SHORTEST_FETCH_INTERVAL);
        self.published.send_modify(|published| {
            published.snapshot = Some(Arc::clone(&snapshot));
            published.renewal = Renewal {
                next_fetch: Some(next_fetch),
                renewal_point: Some(renewal_point),
                ..Renewal::default()
            };
        });
        self.memory.marks = [
            (snapshot.usable_lifetime().warn_at(), Mark::ExpiresSoon),
            (snapshot.not_after(), Mark::Expiry),
        ]
        .map(|(at, mark)| (self.clock.deadline(at), mark))
        .to_vec();
        self.signals.rotated(&snapshot, reason, now, next_fetch);
        let accepted = AssertUnwindSafe(|| self.source.published(&snapshot));
        if catch_unwind(accepted).is_err() {
            tracing::error!(
                "the source panicked when it was notified of the published certificate"
            );
        }
        Renewed::Newer(snapshot)
    }

    /// The source has nothing newer: not a failure, but past the renewal point it is asked again.
    fn note_unchanged(&self) -> (Result<Renewed, RenewError>, Outcome) {
        let unchanged = (Ok(Renewed::Unchanged), Outcome::Unchanged);
        let now = self.clock.now();
        let Some(current) = self.current() else {
            return unchanged;
        };
        if now >= current.not_after() {
            let error = self.note_failure(RenewError::StillExpired);
            return (Err(error), Outcome::Unchanged);
        }
        let pause = Failure {
            in_a_row: 1,
            transient: false,
            requested_wait: None,
            remaining: current.remaining(now),
        };
        let renewal_point = self.renewal_point(&current);
        let next_fetch = renewal_point.max(now + self.wait(Some(&current), &pause));
        self.published.send_modify(|published| {
            published.renewal = Renewal {
                next_fetch: Some(next_fetch),
                renewal_point: Some(renewal_point),
                pausing: true,
                ..Renewal::default()
            };
        });
        unchanged
    }

    fn note_failure(&self, error: RenewError) -> RenewError {
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
                if remaining(now, *not_before) <= RETRY_CAP_BOUNDS.1 =>
            {
                remaining(now, *not_before)
            }
            _ => self.wait(current.as_deref(), &failure),
        };
        self.published.send_modify(|published| {
            let renewal = &mut published.renewal;
            renewal.next_fetch = Some(now + wait);
            renewal.pausing = true;
            renewal.consecutive_failures = in_a_row;
            renewal.last_error = Some(error.clone());
        });
        let failed = Failed {
            in_a_row,
            left,
            wait,
            retry_at: now + wait,
            has_expired: current.is_some() && left.is_zero(),
        };
        self.signals.failed(&error, &failed);
        error
    }

    fn wait(&self, current: Option<&Snapshot>, failure: &Failure) -> Duration {
        super::backoff(current).wait(failure, rand::random())
    }

    /// By the schedule; where that cannot keep its promise, as early as any schedule may.
    fn renewal_point(&self, snapshot: &Snapshot) -> SystemTime {
        let lifetime = snapshot.usable_lifetime();
        let point = self
            .schedule
            .renewal_point(&lifetime, snapshot.leaf_sha256());
        point.unwrap_or_else(|error| {
            tracing::warn!(%error, "the certificate is renewed as early as possible");
            lifetime.earliest_renewal()
        })
    }

    pub(super) fn current(&self) -> Option<Arc<Snapshot>> {
        self.published.borrow().snapshot.clone()
    }

    pub(super) fn failures(&self) -> u32 {
        self.published.borrow().renewal.consecutive_failures
    }

    pub(super) fn next_fetch(&self) -> SystemTime {
        let next = self.published.borrow().renewal.next_fetch;
        next.unwrap_or_else(|| self.clock.now())
    }

    /// Reports the nearest mark, which has passed.
    pub(super) fn pass_mark(&mut self) {
        let Some(current) = self.current() else {
            return;
        };
        match self.memory.marks.remove(0).1 {
            Mark::ExpiresSoon => self.signals.expiring_soon(&current, self.clock.now()),
            Mark::Expiry => self.signals.expired(&current),
        }
    }
}
