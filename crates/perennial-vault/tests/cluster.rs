//! S9: faults of a real cluster of three nodes, with and without stored certificates.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use perennial::{CertState, LiveCert, RenewError, Renewed};
use perennial_testbed::{Elections, OpenBaoCluster};
use perennial_vault::{Auth, Vault};
use tokio::task::JoinHandle;

/// Longer than any fault here may keep a renewal from succeeding.
const LIFETIME: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(40);

async fn live(cluster: &OpenBaoCluster, role: &str) -> LiveCert {
    let node = &cluster.nodes()[0];
    let approle = node.approle();
    let addresses = cluster.addresses();
    let vault = Vault::builder(&addresses[0])
        .address(&addresses[1])
        .address(&addresses[2])
        .ca_pem(node.ca_pem())
        .auth(Auth::approle(&approle.role_id, approle.secret_id.clone()))
        .request_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let source = vault.pki(node.mount()).role(role).common_name("app");
    let source = source.ttl(LIFETIME).build().unwrap();
    LiveCert::start(source).await.unwrap()
}

/// Watches the status until it is aborted, and panics if the certificate expires.
fn never_expires(live: &LiveCert) -> JoinHandle<()> {
    let live = live.clone();
    tokio::spawn(async move {
        loop {
            let status = live.status();
            assert_ne!(status.state, CertState::Expired, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

async fn renewed(live: &LiveCert, despite: &str) {
    let renewing = async {
        while !matches!(live.renew().await, Ok(Renewed::Newer(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(SOON, renewing).await;
    let status = live.status();
    assert!(in_time.is_ok(), "not renewed despite {despite}: {status:?}");
}

async fn both_renewed(unstored: &LiveCert, stored: &LiveCert, despite: &str) {
    tokio::join!(renewed(unstored, despite), renewed(stored, despite));
}

/// Scenario: S6, S9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_certificate_expires_while_a_cluster_fails() {
    let cluster = OpenBaoCluster::start(Elections::Quick).await.unwrap();
    let nodes = cluster.nodes();
    let unstored = live(&cluster, nodes[0].client_role()).await;
    let stored = live(&cluster, nodes[0].stored_client_role()).await;
    let watches = [never_expires(&unstored), never_expires(&stored)];

    let leader = cluster.whole().await.unwrap();
    nodes[leader].stop().await.unwrap();
    both_renewed(&unstored, &stored, "a killed leader").await;
    nodes[leader].start_again().await.unwrap();

    let leader = cluster.whole().await.unwrap();
    nodes[leader].pause().unwrap();
    both_renewed(&unstored, &stored, "a hung leader").await;
    nodes[leader].resume().unwrap();

    cluster.whole().await.unwrap();
    cluster.step_down().await.unwrap();
    both_renewed(&unstored, &stored, "a leader that stepped down").await;

    let leader = cluster.whole().await.unwrap();
    nodes[leader].seal().await.unwrap();
    both_renewed(&unstored, &stored, "a sealed leader").await;
    nodes[leader].unseal().await.unwrap();
    both_renewed(&unstored, &stored, "a leader that was sealed and is back").await;

    // One node is left: it issues only certificates that it need not store.
    let leader = cluster.whole().await.unwrap();
    let lost = [leader, (leader + 1) % nodes.len()];
    for place in lost {
        nodes[place].stop().await.unwrap();
    }
    renewed(&unstored, "a lost quorum").await;
    let failed = async {
        loop {
            match stored.renew().await {
                Err(RenewError::Limited { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => break error,
                Ok(renewed) => panic!("stored without a quorum: {renewed:?}"),
            }
        }
    };
    let error = tokio::time::timeout(SOON, failed).await.unwrap();
    assert!(error.is_transient(), "{error}");
    assert!(stored.current().is_ok(), "the last good one is kept");
    let [one, other] = lost.map(|place| nodes[place].start_again());
    tokio::try_join!(one, other).unwrap();
    renewed(&stored, "a quorum that was lost and is back").await;

    for watch in &watches {
        assert!(!watch.is_finished(), "a certificate has expired");
        watch.abort();
    }
    // As the servers count: the first certificates, and one of each for six occasions.
    assert!(cluster.issued().await.unwrap() >= 14);
}
