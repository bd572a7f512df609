use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;

use crate::error::RenewError;
use crate::snapshot::Snapshot;
use crate::source::Why;

/// How many events a slow reader may be behind before it misses some.
pub const EVENT_BACKLOG: usize = 64;

/// Something that happened to a live certificate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A new generation was published.
    Rotated {
        /// What was published.
        snapshot: Arc<Snapshot>,
        /// Why it was asked for.
        why: Why,
    },
    /// The gate could not tell whether the new certificate works; it was published all the same.
    GateCannotTell {
        /// The generation it is about.
        generation: u64,
        /// What the gate said, with its causes.
        cause: String,
    },
    /// A fetch failed, or what it delivered was not accepted.
    RenewalFailed {
        /// Why.
        error: Arc<RenewError>,
        /// Failures in a row, this one included.
        in_a_row: u32,
        /// When it is tried again, wall clock.
        retry_at: SystemTime,
    },
    /// Little of its life is left, and it has not been renewed.
    ExpiringSoon {
        /// The generation in use.
        generation: u64,
        /// When it expires, wall clock.
        not_after: SystemTime,
        /// What is left.
        remaining: Duration,
    },
    /// Nothing valid is left.
    Expired {
        /// The generation that expired.
        generation: u64,
        /// When it expired, wall clock.
        not_after: SystemTime,
    },
    /// A server refused this generation: see [`LiveCert::report_rejected`](crate::LiveCert::report_rejected).
    Rejected {
        /// The generation that was refused.
        generation: u64,
    },
    /// This reader was too slow, and this many events are gone.
    Missed(u64),
}

/// The events from here on; holds no renewer alive.
#[derive(Debug)]
pub struct Events(pub(crate) broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the renewer has ended.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
