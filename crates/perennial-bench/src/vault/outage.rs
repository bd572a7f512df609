//! Outages of OpenBao, and the loss of a cluster's leader: ours compared with OpenBao's own agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use perennial::{
    CertSource, FetchContext, Fetched, LiveCert, RenewalSchedule, Snapshot, SourceError,
};
use perennial_testbed::serde_json::json;
use perennial_testbed::{OpenBao, OpenBaoCluster};
use perennial_vault::VaultPki;
use tokio::time::{Instant, sleep, timeout};

use super::{LIMIT, POLL, Place, wait_changed, wait_written};
use crate::memory_ca::wall_clock;

/// The result of an outage that lasted past expiry.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outage {
    /// Our attempts during the outage.
    pub attempts: usize,
    /// Seconds from the server's return to our new certificate.
    pub ours: f64,
    /// Seconds from the server's return to the agent's new certificate.
    pub agent: f64,
}

/// Stops the server for `length`, right after both sides have obtained a certificate of `lifetime`.
///
/// # Errors
/// A side does not recover, or the outage ended before expiry.
pub async fn outage(bao: &OpenBao, lifetime: Duration, length: Duration) -> anyhow::Result<Outage> {
    ensure!(
        length > lifetime,
        "the outage must be longer than the lifetime of {lifetime:?}"
    );
    let attempts = Arc::new(AtomicUsize::new(0));
    let source = CountedSource {
        source: Place::of(bao).source("app", lifetime)?,
        fetches: attempts.clone(),
    };
    let live = LiveCert::start(source).await?;
    let agent = bao.agent(bao.client_role(), &["app-agent".to_owned()], lifetime)?;
    let file = &agent.certificates()[0];
    wait_written(&agent).await?;

    bao.stop().await?;
    let before = attempts.load(Ordering::SeqCst);
    sleep(length).await;
    ensure!(!live.is_ready(), "our certificate has not expired");
    let attempts = attempts.load(Ordering::SeqCst) - before;
    let old = std::fs::read(file)?;
    bao.start_again().await?;

    let back = Instant::now();
    let ours = async {
        while !live.is_ready() {
            sleep(POLL).await;
        }
        anyhow::Ok(back.elapsed().as_secs_f64())
    };
    let theirs = async {
        wait_changed(file, &old).await?;
        anyhow::Ok(back.elapsed().as_secs_f64())
    };
    let (ours, agent) = timeout(LIMIT, async { tokio::try_join!(ours, theirs) })
        .await
        .context("one side has not recovered in time")??;
    Ok(Outage {
        attempts,
        ours,
        agent,
    })
}

/// Counts the fetches of a source.
struct CountedSource {
    source: VaultPki,
    fetches: Arc<AtomicUsize>,
}

impl CertSource for CountedSource {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.source.fetch(context).await
    }

    fn published(&self, snapshot: &Arc<Snapshot>) {
        self.source.published(snapshot);
    }
}

/// The outage that our schedule must survive.
const SURVIVED: Duration = Duration::from_secs(20);

/// How long before a due renewal the leader is killed.
const BEFORE: Duration = Duration::from_millis(500);

/// The agent renews after nine tenths of the lifetime.
const AGENT_RENEWS_AT: f64 = 0.9;

/// The result of losing the leader just before a renewal was due.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LeaderLoss {
    /// Seconds from the kill until the cluster issued certificates again.
    pub cluster: f64,
    /// Seconds from the kill until the new certificate.
    pub renewed: f64,
    /// Seconds until the old certificate's expiry at that time; negative if it had expired.
    pub remaining: f64,
}

/// Kills the leader just before our renewal is due. We use a stored certificate of `lifetime` and the
/// addresses of all nodes.
///
/// # Errors
/// The cluster does not recover, or there is no new certificate.
pub async fn lost_leader_ours(
    cluster: &OpenBaoCluster,
    lifetime: Duration,
) -> anyhow::Result<LeaderLoss> {
    let node = &cluster.nodes()[0];
    let place = Place::of(node);
    let mut vault = place.vault();
    for address in &cluster.addresses()[1..] {
        vault = vault.address(address);
    }
    let source = place.pki(&vault.build()?, "app", lifetime);
    let source = source.role(node.stored_client_role()).build()?;
    let live = LiveCert::builder()
        .renewal(RenewalSchedule::new().survive_outage(SURVIVED))
        .start(source)
        .await?;
    let first = live.current()?;
    let due = live.status().next_fetch.context("no renewal is due")?;
    sleep(time_until(due).saturating_sub(BEFORE)).await;
    let leader = cluster.leader().await?;
    lose(cluster, leader, first.not_after(), async || {
        while live.status().generation <= Some(first.generation()) {
            sleep(POLL).await;
        }
        Ok(())
    })
    .await
}

/// Like [`lost_leader_ours`], for OpenBao's own agent, which uses the address of a node that survives.
///
/// # Errors
/// As [`lost_leader_ours`], and if another node has become the leader in the meantime.
pub async fn lost_leader_agent(
    cluster: &OpenBaoCluster,
    lifetime: Duration,
) -> anyhow::Result<LeaderLoss> {
    let leader = cluster.leader().await?;
    let survivor = &cluster.nodes()[(leader + 1) % cluster.nodes().len()];
    let names = ["app-agent".to_owned()];
    let agent = survivor.agent(survivor.stored_client_role(), &names, lifetime)?;
    wait_written(&agent).await?;
    let file = &agent.certificates()[0];
    let (obtained, old) = (wall_clock(), std::fs::read(file)?);
    sleep(time_until(obtained + lifetime.mul_f64(AGENT_RENEWS_AT)).saturating_sub(BEFORE)).await;
    let leads = cluster.leader().await?;
    ensure!(leads == leader, "another node has become the leader");
    lose(cluster, leader, obtained + lifetime, async || {
        wait_changed(file, &old).await
    })
    .await
}

/// Kills the leader, and starts it again once there is a new certificate.
async fn lose(
    cluster: &OpenBaoCluster,
    leader: usize,
    expiry: SystemTime,
    renewal: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<LeaderLoss> {
    cluster.nodes()[leader].stop().await?;
    let killed = Instant::now();
    let back = async {
        issues_again(cluster, leader).await;
        anyhow::Ok(killed.elapsed().as_secs_f64())
    };
    let renewed = async {
        renewal().await?;
        anyhow::Ok((killed.elapsed().as_secs_f64(), remaining(expiry)))
    };
    let both = async { tokio::try_join!(back, renewed) };
    let in_time = timeout(LIMIT, both).await.context("no recovery in time")?;
    let (cluster_back, (renewed, remaining)) = in_time?;
    cluster.nodes()[leader].start_again().await?;
    Ok(LeaderLoss {
        cluster: cluster_back,
        renewed,
        remaining,
    })
}

/// Requests stored certificates from a surviving node until it issues one.
async fn issues_again(cluster: &OpenBaoCluster, dead: usize) {
    let survivor: &OpenBao = &cluster.nodes()[(dead + 1) % cluster.nodes().len()];
    let (mount, role) = (survivor.mount(), survivor.stored_client_role());
    let path = format!("{mount}/issue/{role}");
    loop {
        let body = json!({"common_name": "app-witness", "ttl": "60s"});
        let reply = timeout(Duration::from_secs(1), survivor.api("POST", &path, body)).await;
        if matches!(reply, Ok(Ok(_))) {
            return;
        }
        sleep(POLL).await;
    }
}

fn time_until(moment: SystemTime) -> Duration {
    moment.duration_since(wall_clock()).unwrap_or_default()
}

fn remaining(expiry: SystemTime) -> f64 {
    match expiry.duration_since(wall_clock()) {
        Ok(remaining) => remaining.as_secs_f64(),
        Err(expired) => -expired.duration().as_secs_f64(),
    }
}
