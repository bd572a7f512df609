//! Fetch, check, gate, publish: one attempt, and the state that it leaves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Renewed, Renewer, SHORTEST_FETCH_INTERVAL};
use crate::clock::{Deadline, Moment};
use crate::error::{RenewError, SourceError};
use crate::gate::{Verdict, verdict};
use crate::material::{CertMaterial, MaterialError};
use crate::observe::{Failed, Outcome, Renewal};
use crate::schedule::Failure;
use crate::snapshot::Snapshot;
use crate::source::{FetchContext, FetchReason, Fetched};

/// With no other certificate, one whose validity has not begun is waited for no longer: our clock
/// may be the wrong one.
const LONGEST_WAIT_FOR_VALIDITY: Duration = Duration::from_secs(20);

/// Fetched, but not to be published now; tried again instead of being fetched again.
pub(super) enum Held {
    /// The gate refused it.
    Refused(Box<Snapshot>),
    /// Its validity has not begun.
    NotYetValid {
        material: Arc<CertMaterial>,
        received: Moment,
        until: Deadline,
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
        // A panic of the source, or of a closure in the settings, must not end the renewer. What
        // they share is their own.
        let attempt = AssertUnwindSafe(self.try_once(reason)).catch_unwind().await;
        let (result, outcome) = attempt.unwrap_or_else(|_panic| {
            let error = self.note_failure(RenewError::Panicked);
            (Err(error), Outcome::Failed)
        });
        self.signals
            .attempted(outcome, began.elapsed(), self.failures());
        result
    }

    async fn try_once(&mut self, reason: FetchReason) -> (Result<Renewed, RenewError>, Outcome) {
        match self.candidate(reason).await {
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
        }
    }

    /// A checked snapshot: the held one, if its time has come, or a fetched one.
    async fn candidate(&mut self, reason: FetchReason) -> Result<Snapshot, Miss> {
        if let Some(held) = self.held(reason) {
            return held;
        }
        let current = self.current();
        let context = FetchContext::new(reason, current.as_deref());
        let fetch = self.source.fetch(context);
        let fetched = match tokio::time::timeout(self.fetch_timeout, fetch).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(error)) => return Err(Miss::Failed(RenewError::Source(error))),
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
        let (material, received) = (Arc::new(material), self.clock.moment());
        let candidate = self.check(&material, received)?;
        if let Some(until) = self.hold_until(&candidate, received, reason) {
            self.memory.held = Some(Held::NotYetValid {
                material,
                received,
                until,
            });
            return Err(not_yet_valid(&candidate));
        }
        Ok(candidate)
    }

    /// What is held and makes a fetch unnecessary.
    fn held(&mut self, reason: FetchReason) -> Option<Result<Snapshot, Miss>> {
        let now = self.clock.moment();
        match self.memory.held.take()? {
            Held::Refused(candidate) => {
                let is_scheduled = matches!(reason, FetchReason::Start | FetchReason::Due);
                let is_due = self.renewal_point(&candidate).has_passed(now);
                (is_scheduled && !is_due).then(|| Ok(*candidate))
            }
            held @ Held::NotYetValid { .. } if reason == FetchReason::Changed => {
                self.memory.held = Some(held);
                None
            }
            Held::NotYetValid {
                material,
                received,
                until,
            } => {
                let candidate = match self.check(&material, received) {
                    Ok(candidate) if candidate.end().has_passed(now) => return None,
                    Ok(candidate) => candidate,
                    Err(miss) => return Some(Err(miss)),
                };
                if until.has_passed(now) || reason == FetchReason::Refused {
                    return Some(Ok(candidate));
                }
                let miss = not_yet_valid(&candidate);
                self.memory.held = Some(Held::NotYetValid {
                    material,
                    received,
                    until,
                });
                Some(Err(miss))
            }
        }
    }

    /// Until when a certificate is held back whose validity has not begun by our wall clock.
    ///
    /// Either our clock is behind or the CA's is ahead, and only the servers' clocks count. So the
    /// certificate in use is kept for as long as it surely works. Then the new one is published
    /// all the same, with a warning: the servers decide.
    fn hold_until(
        &self,
        candidate: &Snapshot,
        now: Moment,
        reason: FetchReason,
    ) -> Option<Deadline> {
        // Other roots for the leaf in use change nothing about its validity.
        let is_new_leaf = candidate.leaf_since() == candidate.generation();
        if now.wall >= candidate.not_before() || !is_new_leaf {
            return None;
        }
        let begins = now.deadline(candidate.not_before());
        let in_use = self
            .current()
            .filter(|current| reason != FetchReason::Refused && !current.end().has_passed(now));
        let until = match in_use {
            Some(current) => {
                let latest_renewal = current.usable_lifetime().latest_renewal();
                begins.min(current.deadline(latest_renewal))
            }
            None if candidate.is_valid_by_its_issuers_clock() => return None,
            None if begins.left(now) > LONGEST_WAIT_FOR_VALIDITY => return None,
            None => begins,
        };
        // No longer than the held one remains useful itself.
        let latest_renewal = candidate.usable_lifetime().latest_renewal();
        let until = until.min(candidate.deadline(latest_renewal));
        (!until.has_passed(now)).then_some(until)
    }

    fn check(&self, material: &Arc<CertMaterial>, received: Moment) -> Result<Snapshot, Miss> {
        let current = self.current();
        if current
            .as_ref()
            .is_some_and(|current| current.is_made_of(material))
        {
            return Err(Miss::Unchanged);
        }
        let snapshot = Snapshot::build(material, current.as_deref(), received, &self.tls)
            .map_err(|error| Miss::Failed(RenewError::Material(error)))?;
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
        let now = self.clock.moment();
        let snapshot = Arc::new(snapshot.warn_if_not_yet_valid(now.wall));
        if snapshot.leaf_since() == snapshot.generation() {
            self.memory.held = None;
        }
        let renewal_point = self.renewal_point(&snapshot);
        let next_fetch = self.unless_held(renewal_point.max(now.after(SHORTEST_FETCH_INTERVAL)));
        self.published.send_modify(|published| {
            published.snapshot = Some(Arc::clone(&snapshot));
            published.renewal = Renewal {
                next_fetch: Some(next_fetch),
                renewal_point: Some(renewal_point),
                ..Renewal::default()
            };
        });
        let warn_at = snapshot.deadline(snapshot.usable_lifetime().warn_at());
        self.memory.marks = vec![(warn_at, Mark::ExpiresSoon), (snapshot.end(), Mark::Expiry)];
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
        let now = self.clock.moment();
        let Some(current) = self.current() else {
            return unchanged;
        };
        if current.end().has_passed(now) {
            let error = self.note_failure(RenewError::StillExpired);
            return (Err(error), Outcome::Unchanged);
        }
        let pause = Failure {
            in_a_row: 1,
            transient: false,
            requested_wait: None,
            remaining: current.end().left(now),
        };
        let renewal_point = self.renewal_point(&current);
        let pause = now.after(self.wait(Some(&current), &pause));
        let next_fetch = self.unless_held(renewal_point.max(pause));
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
        let now = self.clock.moment();
        let current = self.current();
        let left = current
            .as_ref()
            .map_or(Duration::ZERO, |current| current.end().left(now));
        let in_a_row = self.failures().saturating_add(1);
        let failure = Failure {
            in_a_row,
            transient: error.is_transient(),
            requested_wait: error.requested_wait(),
            remaining: left,
        };
        let wait = self.wait(current.as_deref(), &failure);
        let next_fetch = self.unless_held(now.after(wait));
        self.published.send_modify(|published| {
            let renewal = &mut published.renewal;
            renewal.next_fetch = Some(next_fetch);
            renewal.pausing = true;
            renewal.consecutive_failures = in_a_row;
            renewal.last_error = Some(error.clone());
        });
        let failed = Failed {
            in_a_row,
            left,
            wait: next_fetch.left(now),
            retry_at: next_fetch.wall(now),
            has_expired: current.is_some() && left.is_zero(),
        };
        self.signals.failed(&error, &failed);
        error
    }

    fn wait(&self, current: Option<&Snapshot>, failure: &Failure) -> Duration {
        super::backoff(current).wait(failure, rand::random())
    }

    /// What is held is tried when its time comes; nothing is fetched before.
    fn unless_held(&self, next_fetch: Deadline) -> Deadline {
        match self.memory.held {
            Some(Held::NotYetValid { until, .. }) => until,
            _ => next_fetch,
        }
    }

    /// By the schedule; where that cannot keep its promise, as early as any schedule may.
    fn renewal_point(&self, snapshot: &Snapshot) -> Deadline {
        let lifetime = snapshot.usable_lifetime();
        let point = self
            .schedule
            .renewal_point(&lifetime, snapshot.leaf_sha256());
        snapshot.deadline(point.unwrap_or_else(|error| {
            tracing::warn!(%error, "the certificate is renewed as early as possible");
            lifetime.earliest_renewal()
        }))
    }

    pub(super) fn current(&self) -> Option<Arc<Snapshot>> {
        self.published.borrow().snapshot.clone()
    }

    pub(super) fn failures(&self) -> u32 {
        self.published.borrow().renewal.consecutive_failures
    }

    pub(super) fn next_fetch(&self) -> Deadline {
        let next = self.published.borrow().renewal.next_fetch;
        next.unwrap_or_else(|| self.clock.moment().after(Duration::ZERO))
    }

    /// Reports the nearest mark, which has passed.
    pub(super) fn pass_mark(&mut self) {
        let Some(current) = self.current() else {
            return;
        };
        match self.memory.marks.remove(0).1 {
            Mark::ExpiresSoon => self.signals.expiring_soon(&current, self.clock.moment()),
            Mark::Expiry => self.signals.expired(&current),
        }
    }
}

fn not_yet_valid(candidate: &Snapshot) -> Miss {
    let not_before = candidate.not_before();
    Miss::Failed(RenewError::Material(MaterialError::NotYetValid {
        not_before,
    }))
}
