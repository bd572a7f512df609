//! Reports what happens as log lines, events and metrics. Decides nothing.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;

use super::events::Event;
use super::metrics;
use crate::causes::with_causes;
use crate::clock::{Deadline, Moment};
use crate::error::RenewError;
use crate::snapshot::Snapshot;
use crate::source::FetchReason;

/// Failures in a row that are logged as warnings before they fall to debug.
const LOUD_FAILURES: u32 = 3;

/// How many events a slow reader may be behind before it misses some.
const EVENT_BACKLOG: usize = 64;

/// Where one live certificate reports; `name` distinguishes it from others in the same process.
#[derive(Debug)]
pub(crate) struct Signals {
    name: Arc<str>,
    events: broadcast::Sender<Event>,
}

/// The outcome of one attempt, for its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Rotated,
    Unchanged,
    Refused,
    Failed,
}

impl Signals {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            events: broadcast::Sender::new(EVENT_BACKLOG),
        }
    }

    pub(crate) fn events(&self) -> &broadcast::Sender<Event> {
        &self.events
    }

    pub(crate) fn rotated(
        &self,
        snapshot: &Arc<Snapshot>,
        reason: FetchReason,
        now: Moment,
        renewal_point: Deadline,
    ) {
        let names = snapshot.names();
        // The audit line: which certificate this process uses from here on.
        tracing::info!(
            certificate = &*self.name,
            generation = snapshot.generation(),
            serial = %snapshot.serial(),
            issuer = snapshot.issuer(),
            limited_by = snapshot.limited_by(),
            common_name = names.common_name.as_deref().unwrap_or_default(),
            dns = ?names.dns,
            ip = ?names.ip,
            uri = ?names.uri,
            remaining = ?snapshot.end().left(now),
            renewal_in = ?renewal_point.left(now),
            ?reason,
            "certificate rotated"
        );
        // Other roots for the same leaf change nothing about it.
        if snapshot.leaf_since() == snapshot.generation() {
            for warning in snapshot.own_warnings() {
                tracing::warn!(
                    certificate = &*self.name,
                    generation = snapshot.generation(),
                    warning,
                    "some servers may refuse the certificate"
                );
            }
        }
        metrics::in_use(&self.name, snapshot, renewal_point.wall(now));
        self.emit(Event::Rotated {
            snapshot: Arc::clone(snapshot),
            reason,
        });
    }

    pub(crate) fn failed(&self, error: &RenewError, failure: &Failed) {
        let Failed {
            in_a_row,
            left,
            wait,
            retry_at,
            has_expired,
        } = *failure;
        let certificate = &*self.name;
        let causes = with_causes(error);
        if let RenewError::Source(error) = error {
            metrics::source_failed(certificate, error.kind());
        }
        if has_expired {
            tracing::error!(certificate, error = %causes, in_a_row, retry_in = ?wait, "renewal failed; no valid certificate is left");
        } else if in_a_row <= LOUD_FAILURES {
            tracing::warn!(certificate, error = %causes, in_a_row, remaining = ?left, retry_in = ?wait, "renewal failed");
        } else {
            tracing::debug!(certificate, error = %causes, in_a_row, remaining = ?left, retry_in = ?wait, "renewal failed");
        }
        self.emit(Event::RenewalFailed {
            error: Arc::new(error.clone()),
            in_a_row,
            retry_at,
        });
    }

    pub(crate) fn gate_inconclusive(&self, generation: u64, cause: &(dyn Error + 'static)) {
        let cause = with_causes(cause).to_string();
        tracing::warn!(
            certificate = &*self.name,
            generation,
            error = cause,
            "gate inconclusive; certificate published anyway"
        );
        self.emit(Event::GateInconclusive { generation, cause });
    }

    pub(crate) fn expiring_soon(&self, snapshot: &Snapshot, now: Moment) {
        let left = snapshot.end().left(now);
        let generation = snapshot.generation();
        tracing::warn!(certificate = &*self.name, generation, remaining = ?left, limited_by = snapshot.limited_by(), "certificate expires soon and has not been renewed");
        self.emit(Event::ExpiringSoon {
            generation,
            not_after: snapshot.not_after(),
            remaining: left,
        });
    }

    pub(crate) fn expired(&self, snapshot: &Snapshot) {
        let generation = snapshot.generation();
        tracing::error!(
            certificate = &*self.name,
            generation,
            limited_by = snapshot.limited_by(),
            "certificate has expired"
        );
        self.emit(Event::Expired {
            generation,
            not_after: snapshot.not_after(),
        });
    }

    pub(crate) fn refused(&self, generation: u64, reporter: &Arc<str>) {
        tracing::warn!(
            certificate = &*self.name,
            generation,
            reporter = &**reporter,
            "a server refused the certificate"
        );
        self.emit(Event::Refused {
            generation,
            reporter: Arc::clone(reporter),
        });
    }

    pub(crate) fn attempted(&self, outcome: Outcome, took: Duration, failures: u32) {
        let result = match outcome {
            Outcome::Rotated => "rotated",
            Outcome::Unchanged => "unchanged",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        };
        metrics::attempted(&self.name, result, took, failures);
    }

    fn emit(&self, event: Event) {
        // An error says that there is no reader.
        let _ = self.events.send(event);
    }
}

/// A failed attempt, as it is reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    pub(crate) in_a_row: u32,
    /// The remaining lifetime of the certificate in use.
    pub(crate) left: Duration,
    pub(crate) wait: Duration,
    pub(crate) retry_at: SystemTime,
    pub(crate) has_expired: bool,
}

#[cfg(test)]
mod tests;
