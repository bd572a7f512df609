//! Postgres as a child process that accepts only certificates of the PKI over TCP.

mod cluster;
mod standby;

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use crate::bao::ServerCertificate;
use crate::clock::FakeClock;
use crate::error::TestbedError;
use crate::server::Server;
pub(crate) use cluster::Cluster;

const NAME: &str = "Postgres";
const HOST: &str = "127.0.0.1";
/// The name of the database and of its owner; certificates for `app` and `app-2` may log in as this user.
const APP: &str = "app";
const SUPERUSER: &str = "postgres";
/// The file of the revocation lists.
const REVOKED: &str = "revoked.crl";

/// A real Postgres with a server certificate of the PKI.
///
/// Over TCP it accepts only TLS with a client certificate, common name `app` or `app-2`, as user `app`. It refuses other
/// common names and plain TCP with SQLSTATE 28000. It syncs nothing to disk.
pub struct Postgres {
    server: Server,
    programs: cluster::Programs,
    port: u16,
    version: String,
    /// The clock that it starts with, if not the machine's.
    clock: Option<FakeClock>,
}

impl Postgres {
    /// The host, 127.0.0.1. The server's certificate is also valid for `localhost`.
    pub fn host(&self) -> &'static str {
        HOST
    }

    /// The port. It does not change with [`Postgres::stop`] and [`Postgres::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database, owned by [`Postgres::user`].
    pub fn database(&self) -> &'static str {
        APP
    }

    /// The user that certificates log in as.
    pub fn user(&self) -> &'static str {
        APP
    }

    /// The server's version, such as `17.10`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The folder with `server.log` and the Unix socket; its subfolder `private` is the data folder.
    pub fn folder(&self) -> &Path {
        self.server.folder().path()
    }

    /// The number of the postmaster process, or `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Postgres' log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Host, port, user, database and `sslmode=require`: complete except for the client certificate.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host(HOST).port(self.port).user(APP).dbname(APP);
        config.ssl_mode(SslMode::Require);
        config
    }

    /// Gives Postgres a wall clock of its own from its next start on; [`Postgres::set_clock`] sets it.
    ///
    /// # Errors
    /// [`TestbedError::Folder`] if writing the clock's file fails.
    pub fn use_clock(&mut self, clock: &FakeClock) -> Result<(), TestbedError> {
        self.clock = Some(clock.clone());
        self.set_clock(0)
    }

    /// Sets its wall clock this many seconds ahead of the machine's; it holds within a second.
    ///
    /// # Errors
    /// [`TestbedError::Folder`] if writing the clock's file fails.
    pub fn set_clock(&self, ahead: i64) -> Result<(), TestbedError> {
        FakeClock::set(&self.clock_file(), ahead)
    }

    /// A connection as superuser to the app's database, over the private Unix socket.
    ///
    /// # Errors
    /// [`TestbedError::Admin`] while the server is stopped.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn admin(&self) -> Result<Client, TestbedError> {
        self.superuser(APP).await
    }

    /// Stops Postgres as an operator does: every session ends with SQLSTATE 57P01. Does nothing while it is stopped.
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

    /// Starts Postgres again after [`Postgres::stop`], on the same port and with the same data.
    ///
    /// # Errors
    /// [`TestbedError::NotStarted`] if its port was taken in the meantime.
    ///
    /// # Cancel safety
    /// Postgres may still start.
    pub async fn start_again(&self) -> Result<(), TestbedError> {
        if !self.server.runs() {
            self.launch()?;
        }
        self.wait().await.map(drop)
    }

    /// Waits until the superuser can connect.
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
        // Ends when the client is dropped.
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Changes to the running server.
impl Postgres {
    /// Presents this certificate to all new connections. [`Postgres::trust`] sets the client CAs.
    ///
    /// # Errors
    /// As [`Postgres::reload`]; then the old certificate stays in use.
    ///
    /// # Cancel safety
    /// The change may still take effect.
    pub async fn present(&self, certificate: &ServerCertificate) -> Result<(), TestbedError> {
        self.write("server.crt", &certificate.chain)?;
        self.write("server.key", &certificate.key)?;
        self.reload().await
    }

    /// From now on accepts only client certificates of these root CAs (PEM, one or more).
    ///
    /// # Errors
    /// As [`Postgres::reload`]; then the previous CAs stay trusted.
    ///
    /// # Cancel safety
    /// The change may still take effect.
    pub async fn trust(&self, roots_pem: &str) -> Result<(), TestbedError> {
        self.write("clients.crt", roots_pem)?;
        self.reload().await
    }

    /// From now on refuses the certificates on these revocation lists.
    ///
    /// There must be one current list for each CA in a client's chain; otherwise Postgres refuses every certificate.
    ///
    /// # Errors
    /// As [`Postgres::reload`]; then the previous lists stay in use.
    ///
    /// # Cancel safety
    /// The change may still take effect.
    pub async fn check_revocation(&self, crls_pem: &str) -> Result<(), TestbedError> {
        self.write(REVOKED, crls_pem)?;
        self.set("ssl_crl_file", REVOKED).await
    }

    /// Changes a setting that needs no restart, such as `ssl_max_protocol_version`. It holds for new connections at once,
    /// for existing ones a moment later.
    ///
    /// # Errors
    /// [`TestbedError::Admin`] for a setting or value that does not exist, otherwise as [`Postgres::reload`].
    ///
    /// # Cancel safety
    /// The change may still take effect.
    pub async fn set(&self, name: &str, value: &str) -> Result<(), TestbedError> {
        let change = format!("alter system set {name} = '{value}'");
        self.admin().await?.batch_execute(&change).await?;
        self.reload().await
    }

    /// Makes the server reread its configuration and certificate files, and waits until it has done so.
    ///
    /// These are `server.crt`, `server.key`, `clients.crt`, `pg_hba.conf` and `pg_ident.conf` in the data folder.
    /// Overwrite the files, so that they keep their owner; do not replace them.
    ///
    /// # Errors
    /// [`TestbedError::Stopped`] while it is stopped; [`TestbedError::NotReloaded`] if it refused a file and continues
    /// with the previous one.
    ///
    /// # Cancel safety
    /// The server may still reread them.
    pub async fn reload(&self) -> Result<(), TestbedError> {
        let logged = self.log().len();
        let before = self.loaded_at().await?;
        self.server.signal(Signal::HUP)?;
        let reloaded = || async {
            let now = self.loaded_at().await.ok()?;
            (now != before).then_some(())
        };
        self.server.until("reloaded", reloaded).await?;
        // The postmaster logs before it accepts the connection that showed the new time.
        let log = self.log();
        let refused =
            |line: &&str| line.contains("was not reloaded") || line.contains("contains errors");
        match log[logged..].lines().find(refused) {
            Some(_) => Err(TestbedError::NotReloaded {
                server: NAME,
                log: log[logged..].to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// When the postmaster last read its files; a new session inherits this time.
    async fn loaded_at(&self) -> Result<String, TestbedError> {
        let client = self.superuser(SUPERUSER).await?;
        let row = client
            .query_one("select pg_conf_load_time()::text", &[])
            .await?;
        Ok(row.get(0))
    }

    fn clock_file(&self) -> PathBuf {
        self.folder().join("clock")
    }

    fn write(&self, name: &str, content: &str) -> Result<(), TestbedError> {
        let folder = self.server.folder();
        let path = folder.private().join(name);
        folder.write(&path, content, self.programs.owner())
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
