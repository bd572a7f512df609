//! Postgres as a child process, which lets in certificates of the PKI and nothing else over TCP.

mod account;
mod change;
mod cluster;
mod config;

use std::path::Path;

use rustix::process::Signal;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use crate::error::TestbedError;
use crate::server::Server;
pub(crate) use account::Account;
pub(crate) use cluster::Cluster;

const NAME: &str = "Postgres";
const HOST: &str = "127.0.0.1";
/// The database and its owner, whom the certificates `app` and `app-2` may log in as.
const APP: &str = "app";
const SUPERUSER: &str = "postgres";

/// A real Postgres with a server certificate of the PKI.
///
/// Over TCP it takes TLS with a client certificate only: common name `app` or `app-2`, as user `app`. Other common
/// names are refused with SQLSTATE 28000, plain TCP is refused outright. Nothing is synced to disk.
pub struct Postgres {
    server: Server,
    cluster: cluster::Programs,
    port: u16,
    version: String,
}

impl Postgres {
    /// The host, 127.0.0.1. The server's certificate is also good for `localhost`.
    pub fn host(&self) -> &'static str {
        HOST
    }

    /// The port. It stays the same over [`Postgres::stop`] and [`Postgres::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database, which belongs to [`Postgres::user`].
    pub fn database(&self) -> &'static str {
        APP
    }

    /// The user whom certificates log in as.
    pub fn user(&self) -> &'static str {
        APP
    }

    /// The server's version, such as `17.10`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The folder with `server.log` and the Unix socket; the data folder is `private` in it.
    pub fn folder(&self) -> &Path {
        self.server.folder().path()
    }

    /// The number of the first process, or `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// What Postgres has logged so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Host, port, user, database and `sslmode=require`: a client certificate is all that is missing.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host(HOST).port(self.port).user(APP).dbname(APP);
        config.ssl_mode(SslMode::Require);
        config
    }

    /// A connection as superuser, to the database of the app, over the private Unix socket.
    ///
    /// # Errors
    /// [`TestbedError::Admin`] while the server is stopped.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn admin(&self) -> Result<Client, TestbedError> {
        self.superuser(APP).await
    }

    /// Stops it as an operator does: every session is ended with SQLSTATE 57P01. Does nothing while it is stopped.
    ///
    /// # Errors
    /// None at present.
    ///
    /// # Cancel safety
    /// Call it again.
    pub async fn stop(&self) -> Result<(), TestbedError> {
        self.server.stop(Signal::INT).await;
        Ok(())
    }

    /// Starts it again after [`Postgres::stop`], on the same port and with the same data.
    ///
    /// # Errors
    /// [`TestbedError::NotStarted`] where its port was taken meanwhile.
    ///
    /// # Cancel safety
    /// It may be running nevertheless.
    pub async fn start_again(&self) -> Result<(), TestbedError> {
        if !self.server.runs() {
            self.cluster.launch(&self.server)?;
        }
        self.wait().await.map(drop)
    }

    /// Waits until the superuser gets in.
    async fn wait(&self) -> Result<Client, TestbedError> {
        self.server
            .until("ready", || async { self.superuser(SUPERUSER).await.ok() })
            .await
    }

    async fn superuser(&self, database: &str) -> Result<Client, TestbedError> {
        let mut config = Config::new();
        config.host_path(self.folder()).port(self.port);
        config.user(SUPERUSER).dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        // Ends with the client that is handed out.
        tokio::spawn(connection);
        Ok(client)
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres")
            .field("port", &self.port)
            .field("version", &self.version)
            .field("pid", &self.pid())
            .field("folder", &self.folder())
            .finish_non_exhaustive()
    }
}
