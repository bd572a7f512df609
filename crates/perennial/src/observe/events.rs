use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;

use crate::error::RenewError;
use crate::snapshot::Snapshot;
use crate::source::FetchReason;

/// Something that happened to a live certificate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A new generation was published.
    Rotated {
        /// What was published.
        snapshot: Arc<Snapshot>,
        /// Why it was fetched.
        reason: FetchReason,
    },
    /// The gate could not judge the new certificate, which was published anyway.
    GateInconclusive {
        /// The generation that was published.
        generation: u64,
        /// The gate's error with its causes, on one line.
        cause: String,
    },
    /// A fetch failed, or its result was refused.
    RenewalFailed {
        /// Why.
        // Shared: each live certificate has a backlog of 64 places of the largest event's size.
        error: Arc<RenewError>,
        /// Failures in a row, this one included.
        in_a_row: u32,
        /// When the renewer tries again, wall clock.
        retry_at: SystemTime,
    },
    /// A fifth of the usable lifetime is left, and the certificate has not been renewed.
    ExpiringSoon {
        /// The generation in use.
        generation: u64,
        /// When it expires, wall clock.
        not_after: SystemTime,
        /// The remaining lifetime.
        remaining: Duration,
    },
    /// The certificate has expired, and there is no valid one.
    Expired {
        /// The generation that expired.
        generation: u64,
        /// When it expired, wall clock.
        not_after: SystemTime,
    },
    /// A server refused this generation: see [`Reporter::refused`](crate::Reporter::refused).
    Refused {
        /// The generation that was refused.
        generation: u64,
        /// The name given to [`LiveCert::reporter`](crate::LiveCert::reporter).
        reporter: Arc<str>,
    },
    /// This reader was too slow and missed this many events.
    Missed(u64),
}

/// Events from the moment of subscription on; does not keep their sender alive.
///
/// # Defaults
/// A reader may be 64 events behind before it misses some.
pub struct Events<T> {
    receiver: broadcast::Receiver<T>,
    missed: fn(u64) -> T,
}

impl<T: Clone> Events<T> {
    /// For crates that report events of their own; `missed` makes the event for a gap.
    pub fn from_channel(receiver: broadcast::Receiver<T>, missed: fn(u64) -> T) -> Self {
        Self { receiver, missed }
    }

    /// The next event; `None` once the sender has ended.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some((self.missed)(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
