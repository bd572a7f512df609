//! Everything that a service does with a pool, for as long as one likes, on short certificates.

mod growth;
mod work;

pub use growth::{Growth, Watch};
pub use work::{Counts, Heard, Work};
