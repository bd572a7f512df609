use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::Unavailable;

use crate::failure::{FailureClass, classify};

/// Why there is no connection, or no longer one that may be used.
///
/// [`perennial::with_causes`] makes one line of it and its causes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no certificate to connect with.
    #[error("no certificate to connect with")]
    Certificate(#[source] Unavailable),
    /// TCP, TLS or login failed: what Postgres or the driver said is in the cause.
    #[error("{} (certificate of generation {generation})", class.advice())]
    Postgres {
        /// What kind of failure this is.
        class: FailureClass,
        /// The generation that was connected with.
        generation: u64,
        /// What the driver says.
        #[source]
        cause: Arc<tokio_postgres::Error>,
    },
    /// It took too long; `phase` says what did.
    #[error("connecting took longer than {after:?}: {phase}")]
    TimedOut {
        /// The connect timeout in force.
        after: Duration,
        /// What was waited for.
        phase: Phase,
        /// The last failure before that, where there was one.
        #[source]
        last: Option<Arc<dyn Error + Send + Sync>>,
    },
    /// The hook that prepares each connection failed.
    #[error("on_connect failed")]
    OnConnect(#[source] Arc<tokio_postgres::Error>),
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
    /// The pool is being drained and hands out nothing more.
    #[error("the pool is being drained")]
    Draining,
}

impl ConnectError {
    pub(crate) fn postgres(error: tokio_postgres::Error, generation: u64) -> Self {
        Self::Postgres {
            class: classify(&error),
            generation,
            cause: Arc::new(error),
        }
    }

    /// What kind of failure this is.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Certificate(_) => FailureClass::NoCertificate,
            Self::Postgres { class, .. } => *class,
            Self::TimedOut { .. } => FailureClass::TimedOut,
            Self::OnConnect(_) | Self::OnConnectPanicked => FailureClass::OnConnect,
            Self::Closed | Self::Expired { .. } => FailureClass::Ended,
            Self::Draining => FailureClass::Draining,
        }
    }

    /// Whether the server refused the certificate itself.
    pub fn is_refusal(&self) -> bool {
        self.class() == FailureClass::CertificateRefused
    }
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
            Self::Server => {
                "postgres did not answer; check that host and port are postgres', and its load"
            }
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
    /// There is nowhere to connect to.
    #[error("the connection settings name no host: add host=…")]
    NoHost,
    /// A host is a Unix socket, over which Postgres speaks no TLS.
    #[error(
        "a host is a Unix socket, where no certificate is used; name a TCP host, or call allow_unix_sockets"
    )]
    UnixSocket,
    /// Unix sockets were allowed, but other hosts of the list need TLS.
    #[error("the hosts are Unix sockets and TCP hosts at once; use one kind")]
    MixedHosts,
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
        last: Option<ConnectError>,
    },
    /// Connecting failed.
    #[error("a connection could not be made")]
    Failed(#[source] ConnectError),
}
