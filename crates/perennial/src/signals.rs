//! Tells what happens: log lines, events, metrics. Decides nothing.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;

use crate::causes::with_causes;
use crate::clock::remaining;
use crate::error::RenewError;
use crate::events::{EVENT_BACKLOG, Event};
use crate::snapshot::Snapshot;
use crate::source::Why;

/// Failures in a row that are logged as warnings before they fall to debug.
const LOUD_FAILURES: u32 = 3;

/// One live certificate's voice; `name` tells it from others in the same process.
#[derive(Debug)]
pub(crate) struct Signals {
    name: Arc<str>,
    events: broadcast::Sender<Event>,
}

/// What came of one fetch, for the count of them.
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
        why: Why,
        now: SystemTime,
        next_fetch: SystemTime,
    ) {
        let names = snapshot.names();
        // The audit line: everything that says which certificate this process uses from here on.
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
            remaining = ?snapshot.remaining(now),
            renewal_in = ?remaining(now, next_fetch),
            ?why,
            "certificate rotated"
        );
        self.tell(Event::Rotated {
            snapshot: Arc::clone(snapshot),
            why,
        });
    }

    pub(crate) fn failed(&self, error: &Arc<RenewError>, failure: &Failed) {
        let Failed {
            in_a_row,
            left,
            wait,
            retry_at,
            has_expired,
        } = *failure;
        let certificate = &*self.name;
        let causes = with_causes(&**error);
        if let RenewError::Source(error) = &**error {
            crate::metrics::source_failed(certificate, error.kind());
        }
        if has_expired {
            tracing::error!(certificate, error = %causes, in_a_row, retry_in = ?wait, "no valid certificate is left");
        } else if in_a_row <= LOUD_FAILURES {
            tracing::warn!(certificate, error = %causes, in_a_row, remaining = ?left, retry_in = ?wait, "renewal failed");
        } else {
            tracing::debug!(certificate, error = %causes, in_a_row, remaining = ?left, retry_in = ?wait, "renewal failed");
        }
        self.tell(Event::RenewalFailed {
            error: Arc::clone(error),
            in_a_row,
            retry_at,
        });
    }

    pub(crate) fn gate_cannot_tell(&self, generation: u64, cause: &(dyn Error + 'static)) {
        let cause = with_causes(cause).to_string();
        tracing::warn!(
            certificate = &*self.name,
            generation,
            error = cause,
            "published without the gate's word"
        );
        self.tell(Event::GateCannotTell { generation, cause });
    }

    pub(crate) fn expiring_soon(&self, snapshot: &Snapshot, now: SystemTime) {
        let left = snapshot.remaining(now);
        let generation = snapshot.generation();
        tracing::warn!(certificate = &*self.name, generation, remaining = ?left, limited_by = snapshot.limited_by(), "certificate expires soon and is not renewed");
        self.tell(Event::ExpiringSoon {
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
        self.tell(Event::Expired {
            generation,
            not_after: snapshot.not_after(),
        });
    }

    pub(crate) fn rejected(&self, generation: u64) {
        tracing::warn!(
            certificate = &*self.name,
            generation,
            "a server refused the certificate"
        );
        self.tell(Event::Rejected { generation });
    }

    pub(crate) fn fetched(&self, outcome: Outcome, took: Duration, failures: u32) {
        crate::metrics::fetched(&self.name, outcome, took, failures);
    }

    pub(crate) fn still_in_use(
        &self,
        snapshot: &Snapshot,
        renewal_point: Option<SystemTime>,
        now: SystemTime,
    ) {
        crate::metrics::in_use(&self.name, snapshot, renewal_point, now);
    }

    fn tell(&self, event: Event) {
        // Nobody need listen.
        let _unheard = self.events.send(event);
    }
}

/// A failure, as it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    pub(crate) in_a_row: u32,
    /// Of the certificate in use.
    pub(crate) left: Duration,
    pub(crate) wait: Duration,
    pub(crate) retry_at: SystemTime,
    pub(crate) has_expired: bool,
}

#[cfg(test)]
mod tests;
