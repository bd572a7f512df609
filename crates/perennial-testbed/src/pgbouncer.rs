//! pgbouncer as a child process, between clients with certificates and a Postgres.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::process::Signal;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::bao::ServerCertificate;
use crate::error::TestbedError;
use crate::folder::{Account, Folder};
use crate::postgres::Postgres;
use crate::server::{Launch, Server, free_port};

const NAME: &str = "pgbouncer";
const HOST: &str = "127.0.0.1";
/// The name of pgbouncer's console and of its user.
const CONSOLE: &str = "pgbouncer";

/// Over TCP only with a certificate; the console over the private socket.
const HBA: &str = "\
local   pgbouncer pgbouncer              trust
hostssl all       all       127.0.0.1/32 cert
";

/// A real pgbouncer in session mode, with a server certificate of the PKI.
///
/// Over TCP it accepts only TLS with a client certificate whose common name is the user's name. It connects to Postgres
/// over the private Unix socket, so Postgres sees no certificate.
pub struct PgBouncer {
    server: Server,
    port: u16,
    database: &'static str,
    user: &'static str,
}

impl PgBouncer {
    pub(crate) async fn start(
        program: &Path,
        certificate: &ServerCertificate,
        postgres: &Postgres,
    ) -> Result<Self, TestbedError> {
        let account = Account::for_postgres()?;
        let owner = account.as_ref();
        let folder = Folder::create("pgb", owner)?;
        let private = folder.private();
        let pgbouncer = Self {
            port: free_port()?,
            database: postgres.database(),
            user: postgres.user(),
            server: Server::new(NAME, Signal::KILL, folder)?,
        };
        let users = format!("\"{}\" \"\"\n\"{CONSOLE}\" \"\"\n", pgbouncer.user);
        for (name, content) in [
            ("server.crt", certificate.chain.as_str()),
            ("server.key", &certificate.key),
            ("clients.crt", &certificate.root),
            ("hba.conf", HBA),
            ("users.txt", &users),
            ("pgbouncer.ini", &pgbouncer.settings(postgres)),
        ] {
            let folder = pgbouncer.server.folder();
            folder.write(&private.join(name), content, owner)?;
        }
        pgbouncer.server.launch(&Launch {
            program,
            arguments: vec![private.join("pgbouncer.ini").into()],
            user: account.map(|account| (account.uid, account.gid)),
            environment: &[],
        })?;
        let ready = || async { pgbouncer.console().await.ok() };
        pgbouncer.server.until("ready", ready).await?;
        Ok(pgbouncer)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// pgbouncer's log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Like [`Postgres::config`], but through pgbouncer.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host(HOST).port(self.port);
        config.user(self.user).dbname(self.database);
        config.ssl_mode(SslMode::Require);
        config
    }

    /// The TLS version and suite of each connected client, by the client's port, as `SHOW CLIENTS` reports them.
    ///
    /// # Errors
    /// [`TestbedError::Admin`] if the console does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn clients(&self) -> Result<BTreeMap<u16, String>, TestbedError> {
        let console = self.console().await?;
        let rows = console.simple_query("show clients").await?;
        let client = |message: &SimpleQueryMessage| {
            let SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            let is_theirs = row.get("user") == Some(self.user);
            let port = row.get("port")?.parse().ok()?;
            is_theirs.then(|| (port, row.get("tls").unwrap_or_default().to_owned()))
        };
        Ok(rows.iter().filter_map(client).collect())
    }

    async fn console(&self) -> Result<Client, TestbedError> {
        let mut config = Config::new();
        config
            .host_path(self.server.folder().path())
            .port(self.port);
        config.user(CONSOLE).dbname(CONSOLE);
        let (client, connection) = config.connect(NoTls).await?;
        // Ends when the client is dropped.
        tokio::spawn(connection);
        Ok(client)
    }

    fn settings(&self, postgres: &Postgres) -> String {
        let Self {
            port,
            database,
            user,
            ..
        } = self;
        let folder = self.server.folder();
        let (socket, private) = (folder.path().display(), folder.private());
        let private = private.display();
        let (postgres_socket, postgres_port) = (postgres.folder().display(), postgres.port());
        format!(
            "\
[databases]
{database} = host={postgres_socket} port={postgres_port} dbname={database} user={user}
[pgbouncer]
listen_addr = {HOST}
listen_port = {port}
unix_socket_dir = {socket}
auth_type = hba
auth_hba_file = {private}/hba.conf
auth_file = {private}/users.txt
admin_users = {CONSOLE}
client_tls_sslmode = verify-full
client_tls_ca_file = {private}/clients.crt
client_tls_cert_file = {private}/server.crt
client_tls_key_file = {private}/server.key
"
        )
    }
}

impl std::fmt::Debug for PgBouncer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgBouncer")
            .field("port", &self.port)
            .field("folder", &self.server.folder().path())
            .finish_non_exhaustive()
    }
}
