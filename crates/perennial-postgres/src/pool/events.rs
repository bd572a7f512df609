use std::time::Duration;

use tokio::sync::broadcast;

use crate::error::ConnectError;
use crate::pool::status::RetireReason;

/// Something that happened to a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolEvent {
    /// Every connection is on this generation now, dedicated ones excepted.
    Moved {
        /// The generation.
        generation: u64,
        /// Since it appeared.
        took: Duration,
    },
    /// A connection was retired.
    Retired {
        /// The generation of its certificate.
        generation: u64,
        /// Why.
        reason: RetireReason,
    },
    /// The server refuses this generation; told once for each.
    CertificateRefused {
        /// The generation that was refused.
        generation: u64,
        /// What the server said, in the causes.
        error: ConnectError,
    },
    /// A connect failed.
    ConnectFailed {
        /// Why.
        error: ConnectError,
    },
    /// This reader was too slow, and this many events are gone.
    Missed(u64),
}

/// The events from here on; a reader that is more than [`EVENT_BACKLOG`](perennial::EVENT_BACKLOG)
/// behind misses some.
#[derive(Debug)]
pub struct PoolEvents(pub(crate) broadcast::Receiver<PoolEvent>);

impl PoolEvents {
    /// The next event; `None` once the pool and its manager are gone.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<PoolEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(PoolEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
