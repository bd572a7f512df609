//! What Perennial costs, measured against its bars; unpublished.
//!
//! `docs/src/benchmarks.md` holds the figures and tells how to run each.

pub mod bars;
pub mod fleet;
pub mod memory_ca;
pub mod plot;
pub mod policies;
pub mod pool;
pub mod process;
pub mod soak;
pub mod stage;
pub mod statistics;
pub mod vault;
