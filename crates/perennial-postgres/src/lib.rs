//! Postgres pools that move onto each new certificate without a failed query.
//!
//! - [`CertPool`] is a bb8 pool. It connects with the current certificate, and when a newer one
//!   appears it exchanges its connections, each replacement ready first.
//!   [`CertConnectionManager`] does the same for a bb8 or deadpool pool of your own.
//! - [`ConnectProbe`] is a gate: it logs in with each new certificate before that is published.
//! - [`PgTls`] is the connector alone, for stock `bb8-postgres`, `deadpool-postgres` or bare
//!   `tokio-postgres`.
//! - [`libpq`] reads what psql is given: a connection string, and the variables `PGHOST`, `PGSSLCERT`
//!   and so on.
//!
//! # How a rotation goes
//! ```text
//!  generation n+1 appears                                     done within ¼ of n's remaining lifetime
//!  │                                                                                            │
//!  ├─ connect a spare ─ exchange an idle one ─ rest ─ connect a spare ─ exchange ─ rest ─ …     │
//!  │                    └─ the old client drains, then sends the Terminate message              │
//!  ├─ in use, returned ───────► exchanged at return if a spare is ready; otherwise once idle    │
//!  └─ in use, never returned ─► left alone; the hard limit, if set, counts from its expiry      │
//! ```
//! The time is at most five minutes. A client that is idle in the pool is *parked*; a check-out
//! *claims* it. An old client is dropped, never aborted: what runs on it finishes, including streams
//! that a caller still reads after their connection was returned. The pool does not move dedicated
//! connections: they have [`PgConnection::refresh`].
//!
//! # When something is wrong
//! Every [`ConnectError`] has a [`FailureClass`] and names what to check; it is in the pool's status,
//! events and log, and is the cause of the error that [`CertPool::get`] returns. When the server
//! refuses a certificate, the pool forces one renewal and tries once more; while the newest is
//! refused, the newest that was accepted stays in use. Of several hosts and addresses, a refusal by
//! one counts more than another that is down. While the server is away, connects retry within a
//! second.
//!
//! # Features
//! - `bb8` (default): [`CertPool`], and the manager for bb8.
//! - `deadpool`: the manager for deadpool.
//! - `encrypted-keys`: `sslpassword` in [`libpq`].
//! - `system-roots`: `sslrootcert=system` in [`libpq`].
//!
//! # Metrics
//! Recorded through the `metrics` facade, each with the label `pool`, the name given to the builder.
//!
//! | metric | kind | unit |
//! |---|---|---|
//! | `perennial_pool_connections` | gauge, label `generation_age`: `current`, `previous`, `older` | open connections, spares and draining ones excluded |
//! | `perennial_pool_draining` | gauge | retired connections on which something still runs |
//! | `perennial_pool_oldest_expiry_timestamp_seconds` | gauge | Unix time at which the first certificate among all these expires; infinite if there are none |
//! | `perennial_pool_expired_in_use` | gauge | connections in use, draining ones included, whose certificate has expired |
//! | `perennial_pool_replacing` | gauge | replacements that are being connected |
//! | `perennial_pool_retired_total` | counter, label `reason` ([`RetireReason`]) | connections |
//! | `perennial_pool_connect_errors_total` | counter, label `class` ([`FailureClass`]) | failed connects |

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "bb8")]
mod bb8_manager;
#[cfg(feature = "deadpool")]
mod deadpool_manager;
mod dial;
mod error;
pub mod libpq;
#[cfg(feature = "pool")]
mod pool;
mod probe;
mod tls;

#[cfg(feature = "deadpool")]
pub use deadpool_manager::DeadpoolConnection;
pub use error::{ConnectError, FailureClass};
#[cfg(feature = "bb8")]
pub use pool::CertPool;
#[cfg(feature = "pool")]
pub use pool::builder::CertPoolBuilder;
#[cfg(feature = "pool")]
pub use pool::connection::{Cancel, PgConnection};
#[cfg(feature = "pool")]
pub use pool::manager::CertConnectionManager;
#[cfg(feature = "pool")]
pub use pool::observe::{PoolEvent, PoolStatus, RetireReason};
#[cfg(feature = "pool")]
pub use pool::session::Notified;
pub use probe::ConnectProbe;
pub use tls::PgTls;

#[cfg(feature = "bb8")]
pub use bb8;
#[cfg(feature = "deadpool")]
pub use deadpool;
pub use perennial;
pub use tokio_postgres;
