//! Postgres pools that move onto each new certificate without a failed query.
//!
//! - [`CertConnectionManager`] is a bb8 manager that takes the current certificate for each
//!   connect and exchanges pooled connections when a newer one appears, each replacement ready
//!   first.
//! - [`PgTls`] is the connector alone, for stock `bb8-postgres`, `deadpool-postgres` or bare
//!   `tokio-postgres`.
//!
//! # How a rotation goes
//! A client that is idle in the pool is *parked*; the first touch after a check-out *claims* it.
//! When a new generation appears, a spare is connected, then exchanged for a parked old client;
//! claimed ones are exchanged when they come back, if a spare stands ready, else once parked.
//! An old client is dropped, never aborted: what runs on it finishes, streams that are still read
//! after their connection went back included. Connections made by `dedicated_connection()` are
//! not retired once they have been touched.

#[cfg(feature = "bb8")]
mod bb8_manager;
#[cfg(feature = "deadpool")]
mod deadpool_manager;
mod error;
mod failure;
#[cfg(feature = "pool")]
mod pool;
mod probe;
mod tls;

#[cfg(feature = "deadpool")]
pub use deadpool_manager::{DeadpoolConnection, DeadpoolPool};
pub use error::{CheckoutError, ConfigError, ConnectError, Phase};
pub use failure::FailureClass;
#[cfg(feature = "pool")]
pub use pool::*;
pub use probe::ConnectProbe;
pub use tls::PgTls;

#[cfg(feature = "bb8")]
pub use bb8;
#[cfg(feature = "deadpool")]
pub use deadpool;
pub use perennial;
pub use tokio_postgres;
