//! Pools on short certificates under steady load, while faults hit everything that they depend on.
//!
//! The load runs in a process of its own, so that it can be stopped and given a clock of its own. This
//! process starts the servers, hits them by a plan that a seed determines, asks Postgres what it saw,
//! and accounts for each failed query.

pub mod account;
mod authority;
pub mod client;
mod disk;
pub mod fault;
pub mod plan;
pub mod report;
pub mod stage;
