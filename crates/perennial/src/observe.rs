//! What readers see of a live certificate: status, events, log lines, metrics.

mod events;
mod metrics;
mod signals;
mod status;

pub use events::{Event, Events};
pub(crate) use signals::{Failed, Outcome, Signals};
pub use status::{CertState, CertStatus};
pub(crate) use status::{Published, Renewal};
