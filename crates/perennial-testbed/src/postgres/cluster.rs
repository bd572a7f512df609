//! Creates a Postgres: `initdb`, configuration, first start.

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
        };
        postgres.launch_on_a_free_port().await?;
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
    async fn launch_on_a_free_port(&mut self) -> Result<(), TestbedError> {
        let folder = self.server.folder();
        let (owner, socket) = (self.programs.account, folder.path().to_path_buf());
        let file = folder.private().join("postgresql.auto.conf");
        let mut attempts = 1;
        loop {
            self.port = free_port()?;
            let settings = settings(&socket, self.port);
            self.server
                .folder()
                .write(&file, &settings, owner.as_ref())?;
            self.programs.launch(&self.server)?;
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
}

impl Programs {
    pub(super) fn launch(&self, server: &Server) -> Result<(), TestbedError> {
        let data = server.folder().private();
        server.launch(&Launch {
            program: &self.folder.join("postgres"),
            arguments: vec!["-D".into(), data.into()],
            user: self.user(),
        })
    }

    async fn initdb(&self, folder: &Folder) -> Result<(), TestbedError> {
        let program = self.folder.join("initdb");
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
        let launch = Launch {
            program: &program,
            arguments,
            user: self.user(),
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
hostssl   all app 127.0.0.1/32 cert clientcert=verify-full map=clients
hostnossl all all all          reject
host      all all all          reject
";

/// Which common name may log in as which user.
const IDENT: &str = "\
clients app   app
clients app-2 app
";

/// Settings added to the configuration of `initdb`.
///
/// Postgres logs connections and disconnections. It syncs nothing, because the data lives only as long as the test.
fn settings(socket: &Path, port: u16) -> String {
    let socket = socket.display();
    format!(
        "
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{socket}'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'clients.crt'
max_connections = 300
shared_buffers = 16MB
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %q%u@%d '
"
    )
}
