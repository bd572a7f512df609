//! Benchmarks: what Perennial costs, compared with bars and with peers; unpublished.
//!
//! `docs/src/benchmarks.md` contains the results and the command for each benchmark.

pub mod bars;
pub mod chaos;
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
