//! Changing a server while it runs.

use rustix::process::Signal;

use super::{NAME, Postgres, SUPERUSER};
use crate::bao::ServerCertificate;
use crate::error::TestbedError;

const REVOKED: &str = "revoked.crl";

impl Postgres {
    /// Presents this certificate to everybody who connects from now on. [`Postgres::trust`] says whose it takes.
    ///
    /// # Errors
    /// As [`Postgres::reload`]; then the old one serves on.
    ///
    /// # Cancel safety
    /// The server may change nevertheless.
    pub async fn present(&self, certificate: &ServerCertificate) -> Result<(), TestbedError> {
        self.write("server.crt", &certificate.chain)?;
        self.write("server.key", &certificate.key)?;
        self.reload().await
    }

    /// Takes client certificates of these root CAs (PEM, one or more), and of no others, from now on.
    ///
    /// # Errors
    /// As [`Postgres::reload`]; then those of before are trusted.
    ///
    /// # Cancel safety
    /// The server may change nevertheless.
    pub async fn trust(&self, roots_pem: &str) -> Result<(), TestbedError> {
        self.write("clients.crt", roots_pem)?;
        self.reload().await
    }

    /// Refuses what these revocation lists name, from now on.
    ///
    /// There must be one of each CA in a client's chain, or nobody gets in; likewise once one of them has expired.
    ///
    /// # Errors
    /// As [`Postgres::reload`]; then those of before are looked at.
    ///
    /// # Cancel safety
    /// The server may change nevertheless.
    pub async fn check_revocation(&self, crls_pem: &str) -> Result<(), TestbedError> {
        self.write(REVOKED, crls_pem)?;
        self.set("ssl_crl_file", REVOKED).await
    }

    /// Changes a setting that needs no restart, such as `ssl_max_protocol_version`, for everybody who connects from
    /// now on; for those who are connected, a moment later.
    ///
    /// # Errors
    /// [`TestbedError::Admin`] for a setting or value that does not exist, otherwise as [`Postgres::reload`].
    ///
    /// # Cancel safety
    /// The server may change nevertheless.
    pub async fn set(&self, name: &str, value: &str) -> Result<(), TestbedError> {
        let change = format!("alter system set {name} = '{value}'");
        self.admin().await?.batch_execute(&change).await?;
        self.reload().await
    }

    /// Makes the server read its configuration and its certificate files again, and waits until it has done so.
    ///
    /// Those are `server.crt`, `server.key`, `clients.crt`, `pg_hba.conf` and `pg_ident.conf` in the data folder. They
    /// keep their owner when they are written over, not when they are replaced.
    ///
    /// # Errors
    /// [`TestbedError::Stopped`] while it is stopped; [`TestbedError::NotReloaded`] where it could not use what it
    /// read, and goes on with what it had.
    ///
    /// # Cancel safety
    /// The server may read them nevertheless.
    pub async fn reload(&self) -> Result<(), TestbedError> {
        let logged = self.log().len();
        let before = self.loaded_at().await?;
        self.server.signal(Signal::HUP)?;
        let reloaded = || async {
            let now = self.loaded_at().await.ok()?;
            (now != before).then_some(())
        };
        self.server.until("reloaded", reloaded).await?;
        // The first process logs before it takes the connection that told us.
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

    /// When the first process last read its files: a new session inherits it.
    async fn loaded_at(&self) -> Result<String, TestbedError> {
        let client = self.superuser(SUPERUSER).await?;
        let row = client
            .query_one("select pg_conf_load_time()::text", &[])
            .await?;
        Ok(row.get(0))
    }

    fn write(&self, name: &str, content: &str) -> Result<(), TestbedError> {
        let folder = self.server.folder();
        let path = folder.private().join(name);
        folder.write(&path, content, self.cluster.owner())
    }
}
