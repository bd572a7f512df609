//! The rows of README.md, on real servers; each test starts its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "scenarios/authorities.rs"]
mod authorities;
#[path = "scenarios/bad_input.rs"]
mod bad_input;
#[path = "scenarios/connections.rs"]
mod connections;
#[path = "scenarios/deadpool.rs"]
mod deadpool;
#[path = "scenarios/health.rs"]
mod health;
#[path = "scenarios/outages.rs"]
mod outages;
#[path = "scenarios/reach.rs"]
mod reach;
#[path = "scenarios/refusals.rs"]
mod refusals;
#[path = "scenarios/retirement.rs"]
mod retirement;
#[path = "scenarios/revocation.rs"]
mod revocation;
#[path = "scenarios/rotation.rs"]
mod rotation;
#[path = "scenarios/signals.rs"]
mod signals;
