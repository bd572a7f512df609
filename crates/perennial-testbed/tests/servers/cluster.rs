//! Three nodes of one OpenBao: what each node does when the leader fails.

use std::time::Duration;

use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{Elections, OpenBaoCluster, TestbedError};

const ISSUE: &str = "pki_int/issue/stored";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_elects_another_leader_when_one_dies_steps_down_or_is_sealed() {
    let cluster = OpenBaoCluster::start(Elections::Quick).await.unwrap();
    let nodes = cluster.nodes();
    let issue = async |node: usize| {
        nodes[node]
            .api("POST", ISSUE, json!({"common_name": "app"}))
            .await
    };
    // Every node issues certificates, the standbys through the leader.
    for node in 0..nodes.len() {
        issue(node).await.unwrap();
    }
    assert_eq!(cluster.issued().await.unwrap(), 3);

    let first = cluster.leader().await.unwrap();
    nodes[first].stop().await.unwrap();
    let second = cluster.leader().await.unwrap();
    assert_ne!(first, second);
    issue(second).await.unwrap();
    nodes[first].start_again().await.unwrap();

    cluster.whole().await.unwrap();
    cluster.step_down().await.unwrap();
    let third = cluster.whole().await.unwrap();
    issue(third).await.unwrap();

    nodes[third].seal().await.unwrap();
    let sealed = issue(third).await.err().unwrap();
    assert!(
        matches!(sealed, TestbedError::Refused { status: 503, .. }),
        "{sealed}"
    );
    let fourth = cluster.leader().await.unwrap();
    assert_ne!(third, fourth);
    nodes[third].unseal().await.unwrap();

    // With two of three nodes paused there is no quorum, so nothing is written until they resume.
    let others: Vec<_> = (0..nodes.len()).filter(|node| *node != fourth).collect();
    for other in &others {
        nodes[*other].pause().unwrap();
    }
    let written = tokio::time::timeout(Duration::from_millis(500), issue(fourth)).await;
    assert!(!matches!(written, Ok(Ok(_))), "written without a quorum");
    for other in &others {
        nodes[*other].resume().unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    let health = nodes[leader].api("GET", "sys/leader", Value::Null).await;
    assert_eq!(health.unwrap()["is_self"], true);
}
