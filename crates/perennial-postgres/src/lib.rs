//! Postgres pools that move onto each new certificate without a failed query.
//!
//! - [`CertConnectionManager`] is a manager for bb8 and deadpool. It
//!   takes the current certificate for each connect and exchanges pooled connections when a newer
//!   one appears, each replacement ready first.
//! - [`ConnectProbe`] is a gate: each new certificate logs in once before anybody uses it.
//! - [`PgTls`] is the connector alone, for stock `bb8-postgres`, `deadpool-postgres` or bare
//!   `tokio-postgres`.
//!
//! # How a rotation goes
//! ```text
//!  generation n+1 appears                                    finished within ¼ of what n has left
//!  │                                                                                            │
//!  ├─ connect a spare ─ exchange an idle one ─ rest ─ connect a spare ─ exchange ─ rest ─ …     │
//!  │                    └─ the old client drains, then says good-bye                            │
//!  ├─ in use, comes back ──────► exchanged at return, if a spare stands ready; else once idle   │
//!  └─ in use, never comes back ► left alone; the hard limit, if set, counts from its expiry     │
//! ```
//! A client that is idle in the pool is *parked*; the first touch after a check-out *claims* it. An
//! old client is dropped, never aborted: what runs on it finishes, streams that are still read after
//! their connection went back included. Connections that are dedicated are not retired: they have
//! [`PgConnection::refresh`].
//!
//! # When something is wrong
//! Every failure to connect has a [`FailureClass`] and says what to check; it is in the pool's
//! status, events and log as it happens, and in `explain` for whoever was told "timed out". A refused
//! certificate causes one forced renewal and one more try; while the newest is refused, the newest
//! that has logged in serves on. Connects are tried again within a second while the server is away.
//!
//! # Features
//! - `bb8` (default), `deadpool`: the manager for that pool.
//! - `metrics`: these, through the `metrics` facade. Each has the label `pool`, the name given to
//!   the builder.
//!
//! | metric | kind | unit |
//! |---|---|---|
//! | `perennial_pool_connections` | gauge, label `generation_age`: `current`, `previous`, `older` | open connections; spares and leaving ones apart |
//! | `perennial_pool_leaving` | gauge | connections that were let go of and still finish what runs on them |
//! | `perennial_pool_oldest_expiry_timestamp_seconds` | gauge | Unix time at which the first certificate among all these expires; infinite if there are none |
//! | `perennial_pool_expired_in_use` | gauge | connections in use, leaving ones too, past their certificate's end |
//! | `perennial_pool_replacing` | gauge | replacements that are being connected |
//! | `perennial_pool_retired_total` | counter, label `reason` ([`RetireReason`]) | connections |
//! | `perennial_pool_connect_errors_total` | counter, label `class` ([`FailureClass`]) | failed connects |

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
