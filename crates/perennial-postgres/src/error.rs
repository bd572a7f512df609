use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::{RenewError, Unavailable};

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
    /// It took too long; `phase` says what did.
    #[error("connecting took longer than {after:?}: {phase}")]
    TimedOut {
        /// The connect timeout in force.
        after: Duration,
        /// What was waited for.
        phase: Phase,
        /// Why there is no valid certificate, where that was waited for and a fetch has failed.
        #[source]
        last: Option<Arc<RenewError>>,
    },
    /// The hook that prepares each connection failed.
    #[error("on_connect failed")]
    OnConnect(#[source] tokio_postgres::Error),
    /// That hook panicked.
    #[error("on_connect panicked")]
    OnConnectPanicked,
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

/// What a connect waits for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// A certificate that is valid now.
    Certificate,
    /// TCP, TLS and login.
    Server,
    /// The hook that prepares each connection.
    OnConnect,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "there was no valid certificate",
            Self::Server => "postgres did not answer",
            Self::OnConnect => "on_connect did not end",
        })
    }
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
