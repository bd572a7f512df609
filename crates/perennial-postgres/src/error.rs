use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::Unavailable;

/// Why there is no connection, or no longer one that may be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no certificate to connect with.
    #[error("no certificate to connect with")]
    Certificate(#[source] Unavailable),
    /// TCP, TLS, login: what Postgres or the driver said, in the cause.
    #[error("postgres could not be connected")]
    Postgres(#[source] tokio_postgres::Error),
    /// The server accepted and fell silent, or the certificate took too long to come.
    #[error("connecting took longer than {after:?}")]
    TimedOut {
        /// The connect timeout in force.
        after: Duration,
    },
    /// The hook that prepares each connection failed.
    #[error("on_connect failed")]
    OnConnect(#[source] tokio_postgres::Error),
    /// The server or the network closed the connection while it was idle.
    #[error("the connection was closed")]
    Closed,
    /// The connection's certificate has expired, and no newer one took its place.
    #[error(
        "the certificate of generation {generation}, which the connection is built on, expired"
    )]
    Expired {
        /// The generation that the connection is built on.
        generation: u64,
        /// When its certificate expired, wall clock.
        not_after: SystemTime,
    },
}

/// Why a [`CertConnectionManager`](crate::CertConnectionManager) cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The connection string asks for plain TCP.
    #[error("sslmode is disable: certificates need TLS; use require, or leave it out")]
    PlainTcp,
    /// A setting that cannot be used.
    #[error("{field} is {got:?}: it must be longer than zero")]
    Setting {
        /// The setter's name.
        field: &'static str,
        /// The value it got.
        got: Duration,
    },
}

/// Why a check-out failed, with the cause that bb8 keeps to itself.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckoutError {
    /// No connection became free in time.
    #[error("no connection became free in time")]
    TimedOut {
        /// The last failure to connect, if the last connect failed: then this is why.
        #[source]
        last: Option<Arc<ConnectError>>,
    },
    /// Connecting failed.
    #[error("a connection could not be made")]
    Failed(#[source] Arc<ConnectError>),
}
