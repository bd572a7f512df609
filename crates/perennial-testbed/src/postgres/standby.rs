//! Streaming standbys: one is started, takes over, and the former primary follows it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;

use rustix::process::Signal;

use super::cluster::SETTINGS;
use super::{NAME, Postgres, SUPERUSER};
use crate::error::TestbedError;
use crate::folder::Folder;
use crate::server::Server;

impl Postgres {
    /// Starts a streaming standby of this server, on a port of its own, about 1.5 s.
    ///
    /// It has the same certificate, trusted CAs and settings, copied now, and answers queries that only read.
    ///
    /// # Errors
    /// As [`Testbed::start`](crate::Testbed::start); [`TestbedError::Program`] if `pg_basebackup` fails.
    ///
    /// # Cancel safety
    /// Cancelling ends the standby.
    pub async fn standby(&self) -> Result<Self, TestbedError> {
        let folder = Folder::create("pg", self.programs.owner())?;
        let mut standby = Self {
            server: Server::new(NAME, Signal::QUIT, folder)?,
            programs: self.programs.clone(),
            port: 0,
            version: self.version.clone(),
            clock: self.clock.clone(),
        };
        if standby.clock.is_some() {
            standby.set_clock(0)?;
        }
        let settings = standby.copy(self).await?;
        standby.launch_on_a_free_port(&settings).await?;
        standby.wait_streaming().await?;
        Ok(standby)
    }

    /// Makes this server a streaming standby of `primary`, on its own port; its own data is thrown away.
    ///
    /// This is what operators do with a former primary after another server was promoted.
    ///
    /// # Errors
    /// As [`Postgres::standby`].
    ///
    /// # Cancel safety
    /// It may be left stopped and without data: call it again.
    pub async fn follow(&self, primary: &Self) -> Result<(), TestbedError> {
        self.server.stop(Signal::QUIT).await;
        let settings = self.copy(primary).await?;
        self.configure(&settings)?;
        self.launch()?;
        self.wait().await?;
        self.wait_streaming().await
    }

    /// Makes this standby the primary, and waits until it accepts writes, about 0.2 s. Stop the former primary first.
    ///
    /// # Errors
    /// [`TestbedError::Admin`] while it is stopped or if it is not a standby; [`TestbedError::Late`] if it does not
    /// take over.
    ///
    /// # Cancel safety
    /// It may still be promoted.
    pub async fn promote(&self) -> Result<(), TestbedError> {
        let client = self.superuser(SUPERUSER).await?;
        client.query_one("select pg_promote(false)", &[]).await?;
        self.wait_for("promoted", "select not pg_is_in_recovery()")
            .await
    }

    /// Copies the data of `primary`, and returns the settings of a standby of it.
    async fn copy(&self, primary: &Self) -> Result<String, TestbedError> {
        let folder = self.server.folder();
        let data = folder.private();
        match fs::remove_dir_all(&data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TestbedError::at(&data)(error));
            }
            _ => {}
        }
        let made = DirBuilder::new().mode(0o700).create(&data);
        made.map_err(TestbedError::at(&data))?;
        folder.give(&data, self.programs.owner())?;
        let (socket, port) = (primary.folder().display(), primary.port);
        let arguments = [
            format!("--host={socket}"),
            format!("--port={port}"),
            format!("--username={SUPERUSER}"),
            format!("--pgdata={}", data.display()),
            "--checkpoint=fast".to_owned(),
            "--no-sync".to_owned(),
        ];
        let arguments = arguments.into_iter().map(Into::into).collect();
        self.programs
            .run("pg_basebackup", arguments, folder)
            .await?;
        self.write("standby.signal", "")?;
        let path = data.join(SETTINGS);
        let copied = fs::read_to_string(&path).map_err(TestbedError::at(&path))?;
        Ok(format!(
            "{copied}\nprimary_conninfo = 'host={socket} port={port} user={SUPERUSER}'\n\
             wal_retrieve_retry_interval = 200ms\n"
        ))
    }

    async fn wait_streaming(&self) -> Result<(), TestbedError> {
        let streaming =
            "select exists (select from pg_stat_wal_receiver where status = 'streaming')";
        self.wait_for("streaming from its primary", streaming).await
    }

    async fn wait_for(&self, state: &'static str, condition: &str) -> Result<(), TestbedError> {
        let reached = || async {
            let client = self.superuser(SUPERUSER).await.ok()?;
            let row = client.query_one(condition, &[]).await.ok()?;
            row.get::<_, bool>(0).then_some(())
        };
        self.server.until(state, reached).await
    }
}
