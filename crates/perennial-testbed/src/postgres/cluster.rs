//! Creates a Postgres: `initdb`, configuration, first start.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use super::{APP, NAME, Postgres, SUPERUSER};
use crate::bao::ServerCertificate;
use crate::error::TestbedError;
use crate::folder::{Account, Folder, open_to_all};
use crate::server::{Launch, Server, free_port};

/// Attempts to start: another process may take a free port first.
const TRIES: u32 = 3;

/// A data folder created by `initdb`; the server is not running yet.
pub(crate) struct Cluster {
    folder: Folder,
    programs: Programs,
}

/// The folder of `postgres` and `initdb`, and the user they run as.
#[derive(Clone)]
pub(super) struct Programs {
    folder: PathBuf,
    account: Option<Account>,
}

impl Cluster {
    /// Runs `initdb`, about 1 s.
    pub(crate) async fn create(folder: PathBuf) -> Result<Self, TestbedError> {
        let account = Account::for_postgres()?;
        let programs = Programs { folder, account };
        programs.check_reach()?;
        let folder = Folder::create("pg", account.as_ref())?;
        programs.initdb(&folder).await?;
        Ok(Self { folder, programs })
    }

    /// Starts the server with this certificate, and creates the app's user and database.
    pub(crate) async fn start(
        self,
        certificate: &ServerCertificate,
    ) -> Result<Postgres, TestbedError> {
        let Self { folder, programs } = self;
        let owner = programs.account;
        let data = folder.private();
        for (name, content) in [
            ("server.crt", certificate.chain.as_str()),
            ("server.key", &certificate.key),
            ("clients.crt", &certificate.root),
            ("pg_hba.conf", HBA),
            ("pg_ident.conf", IDENT),
        ] {
            folder.write(&data.join(name), content, owner.as_ref())?;
        }
        let mut postgres = Postgres {
            server: Server::new(NAME, Signal::QUIT, folder)?,
            programs,
            port: 0,
            version: String::new(),
            clock: None,
        };
        postgres.launch_on_a_free_port(BASE).await?;
        let client = postgres.wait().await?;
        client
            .batch_execute(&format!("create role {APP} login"))
            .await?;
        client
            .batch_execute(&format!("create database {APP} owner {APP}"))
            .await?;
        let row = client.query_one("show server_version", &[]).await?;
        let version: String = row.get(0);
        // Debian appends the name of its package.
        postgres.version = version.split(' ').next().unwrap_or_default().to_owned();
        Ok(postgres)
    }
}

impl Postgres {
    /// Starts the server with these settings on a port that no process listens on.
    pub(super) async fn launch_on_a_free_port(&mut self, base: &str) -> Result<(), TestbedError> {
        let mut attempts = 1;
        loop {
            self.port = free_port()?;
            self.configure(base)?;
            self.launch()?;
            match self.wait().await {
                Err(TestbedError::NotStarted { log, .. })
                    if attempts < TRIES && log.contains("Address already in use") =>
                {
                    self.server.stop(Signal::QUIT).await;
                }
                result => return result.map(drop),
            }
            attempts += 1;
        }
    }

    /// Writes these settings, and those of this server's place.
    pub(super) fn configure(&self, base: &str) -> Result<(), TestbedError> {
        let socket = self.folder().display();
        let place = format!(
            "port = {}\nunix_socket_directories = '{socket}'\n",
            self.port
        );
        self.write(SETTINGS, &format!("{base}\n{place}"))
    }

    pub(super) fn launch(&self) -> Result<(), TestbedError> {
        let environment = (self.clock.as_ref()).map(|clock| clock.environment(&self.clock_file()));
        let environment = environment.unwrap_or_default();
        self.programs.launch(&self.server, &environment)
    }
}

impl Programs {
    fn launch(
        &self,
        server: &Server,
        environment: &[(&'static str, OsString)],
    ) -> Result<(), TestbedError> {
        let data = server.folder().private();
        server.launch(&Launch {
            program: &self.folder.join("postgres"),
            arguments: vec!["-D".into(), data.into()],
            user: self.user(),
            environment,
        })
    }

    async fn initdb(&self, folder: &Folder) -> Result<(), TestbedError> {
        let words = [
            "--username",
            SUPERUSER,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
        ];
        let mut arguments: Vec<_> = words.iter().map(Into::into).collect();
        arguments.extend(["--no-locale".into(), "--no-sync".into(), "--pgdata".into()]);
        arguments.push(folder.private().into());
        self.run("initdb", arguments, folder).await
    }

    /// Runs a program of Postgres to its end.
    pub(super) async fn run(
        &self,
        program: &str,
        arguments: Vec<OsString>,
        folder: &Folder,
    ) -> Result<(), TestbedError> {
        let program = self.folder.join(program);
        let launch = Launch {
            program: &program,
            arguments,
            user: self.user(),
            environment: &[],
        };
        let mut command = tokio::process::Command::from(launch.command(&[], folder.path()));
        let output = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let output = output.map_err(|source| TestbedError::Run {
            program: program.clone(),
            source,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(TestbedError::Program {
            program,
            output: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    /// Fails early with a clear error if the user that Postgres runs as cannot enter the folder of its programs.
    fn check_reach(&self) -> Result<(), TestbedError> {
        let program: &Path = &self.folder.join("postgres");
        if self.account.is_none() || open_to_all(program) {
            return Ok(());
        }
        Err(TestbedError::Run {
            program: program.to_path_buf(),
            source: std::io::Error::other(
                "root runs Postgres as an unprivileged user, which cannot enter this folder",
            ),
        })
    }

    pub(super) fn owner(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    fn user(&self) -> Option<(u32, u32)> {
        self.account.map(|account| (account.uid, account.gid))
    }
}

/// Who may log in: over the private socket any user, over TCP only with a certificate.
const HBA: &str = "\
local     all all              trust
local     replication all      trust
hostssl   all app 127.0.0.1/32 cert clientcert=verify-full map=clients
hostnossl all all all          reject
host      all all all          reject
";

/// Which common name may log in as which user.
const IDENT: &str = "\
clients app   app
clients app-2 app
";

/// The file of the settings that `alter system` changes too.
pub(super) const SETTINGS: &str = "postgresql.auto.conf";

/// Settings added to the configuration of `initdb`.
///
/// Postgres logs connections and disconnections. It syncs nothing, because the data lives only as long as the test.
/// A standby can follow it at any time.
const BASE: &str = "
listen_addresses = '127.0.0.1'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'clients.crt'
max_connections = 300
shared_buffers = 16MB
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = replica
max_wal_senders = 4
wal_keep_size = 64MB
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %q%u@%d '
";
