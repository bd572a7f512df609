//! Everything that a service does with a pool, for any length of time, with short-lived certificates.

mod growth;
mod work;

pub use growth::{Growth, Watch};
pub use work::{Counts, Listened, Work};
