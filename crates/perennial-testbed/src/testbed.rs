//! Both servers together, and further servers of the same PKI.

use std::path::PathBuf;

use crate::bao::OpenBao;
use crate::error::TestbedError;
use crate::locate::{self, Progress};
use crate::pgbouncer::PgBouncer;
use crate::postgres::{Cluster, Postgres};

/// An OpenBao and a Postgres that trusts its PKI, both ready.
///
/// Dropping it blocks until both servers have ended, about 0.2 s, and removes their folders.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "dropping a testbed ends its servers"]
pub struct Testbed {
    /// The CA.
    pub bao: OpenBao,
    /// The database, which accepts only clients with a certificate of that CA.
    pub postgres: Postgres,
}

impl Testbed {
    /// Starts both servers and waits until both are ready, about 2.5 s.
    ///
    /// # Errors
    /// [`TestbedError::NoServer`] if the programs are not on this machine and cannot be fetched;
    /// [`TestbedError::NotStarted`] with the end of the log if a server does not start.
    ///
    /// # Cancel safety
    /// Cancelling ends the servers that were started.
    pub async fn start() -> Result<Self, TestbedError> {
        Self::start_with(|_| ()).await
    }

    /// Starts both servers as [`Testbed::start`] does, and reports each step, such as `starting OpenBao`.
    ///
    /// # Errors
    /// As [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling ends the servers that were started.
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

    /// Starts another Postgres with the same PKI, about 1.5 s.
    ///
    /// # Errors
    /// As [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling ends the servers that were started.
    pub async fn another_postgres(&self) -> Result<Postgres, TestbedError> {
        self.bao.postgres().await
    }

    /// Starts another Postgres as [`Testbed::another_postgres`] does, of the pinned version 17.
    ///
    /// # Errors
    /// As [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling ends the servers that were started.
    pub async fn another_postgres_17(&self) -> Result<Postgres, TestbedError> {
        postgres_of(&self.bao, locate::postgres_17(&|_| ()).await?).await
    }

    /// Starts a pgbouncer in front of the Postgres, with the same PKI.
    ///
    /// # Errors
    /// [`TestbedError::NoPgBouncer`] if it is not installed (no package index has it); otherwise as
    /// [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling ends the servers that were started.
    pub async fn pgbouncer(&self) -> Result<PgBouncer, TestbedError> {
        let program = locate::pgbouncer()?;
        let certificate = self.bao.server_certificate().await?;
        PgBouncer::start(&program, &certificate, &self.postgres).await
    }
}

impl OpenBao {
    /// Starts a Postgres with a server certificate of this PKI, which accepts only its clients; about 2 s.
    ///
    /// # Errors
    /// As [`Testbed::start`].
    ///
    /// # Cancel safety
    /// Cancelling ends the server.
    pub async fn postgres(&self) -> Result<Postgres, TestbedError> {
        postgres_of(self, locate::postgres(&|_| ()).await?).await
    }
}

async fn postgres_of(bao: &OpenBao, programs: PathBuf) -> Result<Postgres, TestbedError> {
    let (certificate, cluster) =
        tokio::try_join!(bao.server_certificate(), Cluster::create(programs))?;
    Box::pin(cluster.start(&certificate)).await
}
