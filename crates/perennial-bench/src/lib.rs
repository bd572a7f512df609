//! A fleet simulated on the real schedule, beside three peers' formulas; unpublished.
//!
//! `docs/src/benchmarks.md` holds the figures and tells how to run it.

pub mod fleet;
pub mod plot;
pub mod policies;
