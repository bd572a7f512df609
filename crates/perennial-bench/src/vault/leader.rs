use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use perennial::{LiveCert, Schedule};
use perennial_testbed::serde_json::json;
use perennial_testbed::{OpenBao, OpenBaoCluster};
use tokio::time::{Instant, sleep, timeout};

use super::{LOOK, PATIENCE, Place, changed, written};
use crate::memory_ca::wall_clock;

/// The outage that our schedule is told to survive.
const SURVIVED: Duration = Duration::from_secs(20);

/// The leader is killed this long before a renewal is due.
const BEFORE: Duration = Duration::from_millis(500);

/// The agent renews after nine tenths of a life.
const AGENTS_SHARE: f64 = 0.9;

/// What the loss of a leader did, just before a renewal was due.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Loss {
    /// Seconds from the kill until the cluster issued again.
    pub cluster: f64,
    /// Seconds from the kill until there was a new certificate.
    pub renewed: f64,
    /// Seconds that the old one had left then; less than none if it had expired.
    pub left: f64,
}

/// Kills the leader just before our renewal is due: a stored certificate of `life`, all addresses.
///
/// # Errors
/// A cluster, or a certificate, that does not come back.
pub async fn lost_by_us(cluster: &OpenBaoCluster, life: Duration) -> anyhow::Result<Loss> {
    let node = &cluster.nodes()[0];
    let mut builder = Place::of(node).builder("app", life);
    builder = builder.role(node.stored_client_role());
    for address in &cluster.addresses()[1..] {
        builder = builder.address(address);
    }
    let live = LiveCert::builder()
        .schedule(Schedule::new().survive_outage(SURVIVED))
        .start(builder.build()?)
        .await?;
    let first = live.current()?;
    let due = live.status().next_fetch.context("never due")?;
    sleep(until(due).saturating_sub(BEFORE)).await;
    let leader = cluster.leader().await?;
    lost(cluster, leader, first.not_after(), async || {
        while live.status().generation <= Some(first.generation()) {
            sleep(LOOK).await;
        }
        Ok(())
    })
    .await
}

/// The same for OpenBao's own agent, which is given the address of a node that survives.
///
/// # Errors
/// As [`lost_by_us`], and where another node has come to lead meanwhile.
pub async fn lost_by_agent(cluster: &OpenBaoCluster, life: Duration) -> anyhow::Result<Loss> {
    let leader = cluster.leader().await?;
    let survivor = &cluster.nodes()[(leader + 1) % cluster.nodes().len()];
    let names = ["app-agent".to_owned()];
    let agent = survivor.agent(survivor.stored_client_role(), &names, life)?;
    written(&agent).await?;
    let file = &agent.certificates()[0];
    let (obtained, old) = (wall_clock(), std::fs::read(file)?);
    sleep(until(obtained + life.mul_f64(AGENTS_SHARE)).saturating_sub(BEFORE)).await;
    let leads = cluster.leader().await?;
    ensure!(leads == leader, "another node leads by now");
    lost(cluster, leader, obtained + life, async || {
        changed(file, &old).await
    })
    .await
}

/// Kills the leader, and starts it again once there is another certificate.
async fn lost(
    cluster: &OpenBaoCluster,
    leader: usize,
    ends: SystemTime,
    renewal: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Loss> {
    cluster.nodes()[leader].stop().await?;
    let killed = Instant::now();
    let back = async {
        issues_again(cluster, leader).await;
        anyhow::Ok(killed.elapsed().as_secs_f64())
    };
    let renewed = async {
        renewal().await?;
        anyhow::Ok((killed.elapsed().as_secs_f64(), left(ends)))
    };
    let both = async { tokio::try_join!(back, renewed) };
    let in_time = timeout(PATIENCE, both).await.context("nobody came back")?;
    let (cluster_back, (renewed, left)) = in_time?;
    cluster.nodes()[leader].start_again().await?;
    Ok(Loss {
        cluster: cluster_back,
        renewed,
        left,
    })
}

/// Asks a node that was left, again and again, for what must be stored.
async fn issues_again(cluster: &OpenBaoCluster, dead: usize) {
    let survivor: &OpenBao = &cluster.nodes()[(dead + 1) % cluster.nodes().len()];
    let (mount, role) = (survivor.mount(), survivor.stored_client_role());
    let path = format!("{mount}/issue/{role}");
    loop {
        let ask = json!({"common_name": "app-witness", "ttl": "60s"});
        let asked = timeout(Duration::from_secs(1), survivor.api("POST", &path, ask)).await;
        if matches!(asked, Ok(Ok(_))) {
            return;
        }
        sleep(LOOK).await;
    }
}

fn until(moment: SystemTime) -> Duration {
    moment.duration_since(wall_clock()).unwrap_or_default()
}

fn left(ends: SystemTime) -> f64 {
    match ends.duration_since(wall_clock()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    }
}
