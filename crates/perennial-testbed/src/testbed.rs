use std::path::PathBuf;

use crate::bao::OpenBao;
use crate::error::TestbedError;
use crate::locate::{self, Progress};
use crate::pgbouncer::PgBouncer;
use crate::postgres::{Cluster, Postgres};

/// An OpenBao and a Postgres that trusts its PKI, both up and ready.
///
/// Dropping it blocks until both servers have ended, some 0.2 s, and removes their folders.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "dropping a testbed ends its servers"]
pub struct Testbed {
    /// The CA.
    pub bao: OpenBao,
    /// The database that takes certificates of that CA, and nothing else.
    pub postgres: Postgres,
}

impl Testbed {
    /// Starts both servers and waits until both are ready, some 2.5 s.
    ///
    /// # Errors
    /// [`TestbedError::NoServer`] where the programs are neither on this machine nor to be fetched;
    /// [`TestbedError::NotStarted`] with the end of the log where a server does not come up.
    ///
    /// # Cancel safety
    /// Cancelling it ends what was started.
    pub async fn start() -> Result<Self, TestbedError> {
        Self::start_with(|_| ()).await
    }

    /// Starts both servers as [`Testbed::start`] does, and says each step, such as `starting OpenBao`.
    ///
    /// # Errors
    /// As [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling it ends what was started.
    pub async fn start_with(progress: impl Fn(&str) + Send + Sync) -> Result<Self, TestbedError> {
        let progress: Progress<'_> = &progress;
        let bao_program = locate::openbao(progress).await?;
        let postgres_programs = locate::postgres(progress).await?;
        progress("starting OpenBao");
        let (bao, cluster) = tokio::try_join!(
            Box::pin(OpenBao::start(bao_program)),
            Box::pin(Cluster::create(postgres_programs)),
        )?;
        progress("starting Postgres");
        let certificate = bao.server_certificate().await?;
        let postgres = Box::pin(cluster.start(&certificate)).await?;
        Ok(Self { bao, postgres })
    }

    /// Starts a further Postgres beside this one, with a certificate and clients of the same PKI, some 1.5 s.
    ///
    /// # Errors
    /// As [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling it ends what was started.
    pub async fn another_postgres(&self) -> Result<Postgres, TestbedError> {
        self.postgres_from(locate::postgres(&|_| ()).await?).await
    }

    /// Starts a further Postgres as [`Testbed::another_postgres`] does, of version 17 whatever this machine has.
    ///
    /// # Errors
    /// As [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling it ends what was started.
    pub async fn another_postgres_17(&self) -> Result<Postgres, TestbedError> {
        self.postgres_from(locate::postgres_17(&|_| ()).await?)
            .await
    }

    /// Starts a pgbouncer in front of the Postgres, with a certificate and clients of the same PKI.
    ///
    /// # Errors
    /// [`TestbedError::NoPgBouncer`] where it is not installed: no package index has it; otherwise as
    /// [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling it ends what was started.
    pub async fn pgbouncer(&self) -> Result<PgBouncer, TestbedError> {
        let program = locate::pgbouncer()?;
        let certificate = self.bao.server_certificate().await?;
        PgBouncer::start(&program, &certificate, &self.postgres).await
    }

    async fn postgres_from(&self, programs: PathBuf) -> Result<Postgres, TestbedError> {
        let (certificate, cluster) =
            tokio::try_join!(self.bao.server_certificate(), Cluster::create(programs))?;
        Box::pin(cluster.start(&certificate)).await
    }
}
