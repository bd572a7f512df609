use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use perennial::{LiveCert, Schedule};
use perennial_testbed::serde_json::json;
use perennial_testbed::{OpenBao, OpenBaoCluster};
use perennial_vault::{Auth, VaultPki};
use tokio::time::{Instant, sleep, timeout};

const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(150);

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
    /// Seconds from the kill until the cluster issued again, asked every 20 ms.
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
    let addresses = cluster.addresses();
    let (first, others) = addresses.split_first().context("no node")?;
    let builder = others
        .iter()
        .fold(VaultPki::builder(first), |builder, address| {
            builder.address(address)
        })
        .ca_pem(node.ca_pem())
        .auth(Auth::approle(
            &*node.approle().role_id,
            &*node.approle().secret_id,
        ))
        .mount(node.mount())
        .role(node.stored_client_role())
        .common_name("app")
        .ttl(life);
    let live = LiveCert::builder()
        .schedule(Schedule::new().survive_outage(SURVIVED))
        .start(builder.build()?)
        .await?;
    let first = live.current()?;
    let due = live.status().next_fetch.context("never due")?;
    sleep(until(due).saturating_sub(BEFORE)).await;
    let (leader, killed) = kill(cluster).await?;
    let ours = async {
        while live.status().generation <= Some(first.generation()) {
            sleep(LOOK).await;
        }
        anyhow::Ok(killed.elapsed().as_secs_f64())
    };
    let ends = first.not_after();
    let renewed = async {
        let renewed = ours.await?;
        Ok((renewed, left(ends)))
    };
    let (cluster_back, (renewed, left)) = both(issues_again(cluster, leader), renewed).await?;
    cluster.nodes()[leader].start_again().await?;
    Ok(Loss {
        cluster: cluster_back,
        renewed,
        left,
    })
}

/// The same for OpenBao's own agent, which is given the address of a node that survives.
///
/// # Errors
/// As [`lost_by_us`].
pub async fn lost_by_agent(cluster: &OpenBaoCluster, life: Duration) -> anyhow::Result<Loss> {
    let leader = cluster.leader().await?;
    let survivor = &cluster.nodes()[(leader + 1) % cluster.nodes().len()];
    let names = ["app-agent".to_owned()];
    let agent = survivor.agent(survivor.stored_client_role(), &names, life)?;
    let file = &agent.certificates()[0];
    while !file.exists() {
        sleep(LOOK).await;
    }
    let (obtained, old) = (SystemTime::now(), std::fs::read(file)?);
    let ends = obtained + life;
    sleep(until(obtained + life.mul_f64(AGENTS_SHARE)).saturating_sub(BEFORE)).await;
    let (killed_one, killed) = kill(cluster).await?;
    ensure!(killed_one == leader, "another node leads by now");
    let renewed = async {
        changed(file, &old).await?;
        Ok((killed.elapsed().as_secs_f64(), left(ends)))
    };
    let (cluster_back, (renewed, left)) = both(issues_again(cluster, leader), renewed).await?;
    cluster.nodes()[leader].start_again().await?;
    Ok(Loss {
        cluster: cluster_back,
        renewed,
        left,
    })
}

async fn kill(cluster: &OpenBaoCluster) -> anyhow::Result<(usize, Instant)> {
    let leader = cluster.leader().await?;
    cluster.nodes()[leader].stop().await?;
    Ok((leader, Instant::now()))
}

/// Seconds until a node that was left issues what must be stored.
async fn issues_again(cluster: &OpenBaoCluster, dead: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let survivor: &OpenBao = &cluster.nodes()[(dead + 1) % cluster.nodes().len()];
    let path = format!(
        "{}/issue/{}",
        survivor.mount(),
        survivor.stored_client_role()
    );
    loop {
        let ask = json!({"common_name": "app-witness", "ttl": "60s"});
        let asked = timeout(Duration::from_secs(1), survivor.api("POST", &path, ask)).await;
        if matches!(asked, Ok(Ok(_))) {
            return Ok(began.elapsed().as_secs_f64());
        }
        sleep(LOOK).await;
    }
}

async fn changed(file: &Path, old: &[u8]) -> anyhow::Result<()> {
    while std::fs::read(file)? == old {
        sleep(LOOK).await;
    }
    Ok(())
}

async fn both<A, B>(
    one: impl Future<Output = anyhow::Result<A>>,
    other: impl Future<Output = anyhow::Result<B>>,
) -> anyhow::Result<(A, B)> {
    let both = async { tokio::try_join!(one, other) };
    timeout(PATIENCE, both).await.context("nobody came back")?
}

fn until(moment: SystemTime) -> Duration {
    moment.duration_since(SystemTime::now()).unwrap_or_default()
}

fn left(ends: SystemTime) -> f64 {
    match ends.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    }
}
