use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use perennial::{Ask, CertMaterial, CertSource, LiveCert, SourceError};
use perennial_testbed::OpenBao;
use perennial_vault::VaultPki;
use tokio::time::{Instant, sleep, timeout};

use super::{LOOK, PATIENCE, Place, changed, written};

/// What an outage past expiry did.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outage {
    /// Our tries in it.
    pub tries: usize,
    /// Seconds from the server's return to our new certificate.
    pub ours: f64,
    /// Seconds from the server's return to the agent's.
    pub agent: f64,
}

/// Takes the server away for `length`, right after both have got a certificate of `life`.
///
/// # Errors
/// Somebody has not recovered, or had no need to.
pub async fn outage(bao: &OpenBao, life: Duration, length: Duration) -> anyhow::Result<Outage> {
    ensure!(
        length > life,
        "an outage past expiry is longer than {life:?}"
    );
    let tries = Arc::new(AtomicUsize::new(0));
    let source = Counted {
        source: Place::of(bao).source("app", life)?,
        fetches: tries.clone(),
    };
    let live = LiveCert::start(source).await?;
    let agent = bao.agent(bao.client_role(), &["app-agent".to_owned()], life)?;
    let file = &agent.certificates()[0];
    written(&agent).await?;

    bao.stop().await?;
    let before = tries.load(Ordering::SeqCst);
    sleep(length).await;
    ensure!(!live.is_ready(), "our certificate has not expired");
    let tried = tries.load(Ordering::SeqCst) - before;
    let old = std::fs::read(file)?;
    bao.start_again().await?;

    let back = Instant::now();
    let ours = async {
        while !live.is_ready() {
            sleep(LOOK).await;
        }
        anyhow::Ok(back.elapsed().as_secs_f64())
    };
    let theirs = async {
        changed(file, &old).await?;
        anyhow::Ok(back.elapsed().as_secs_f64())
    };
    let (ours, agent) = timeout(PATIENCE, async { tokio::try_join!(ours, theirs) })
        .await
        .context("nobody has recovered")??;
    Ok(Outage {
        tries: tried,
        ours,
        agent,
    })
}

/// Counts what is asked of a source.
struct Counted {
    source: VaultPki,
    fetches: Arc<AtomicUsize>,
}

impl CertSource for Counted {
    async fn fetch(&self, ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.source.fetch(ask).await
    }
}
