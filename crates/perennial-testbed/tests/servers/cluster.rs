//! Three nodes of one OpenBao: what each of them does when the leader fails.

use std::time::Duration;

use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{Elections, OpenBaoCluster, TestbedError};

const ISSUE: &str = "pki_int/issue/stored";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_elects_another_leader_when_one_dies_steps_down_or_is_sealed() {
    let cluster = OpenBaoCluster::start(Elections::Quick).await.unwrap();
    let nodes = cluster.nodes();
    let issue = async |place: usize| {
        nodes[place]
            .api("POST", ISSUE, json!({"common_name": "app"}))
            .await
    };
    // Every node issues, the standbys through the leader.
    for place in 0..nodes.len() {
        issue(place).await.unwrap();
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

    // With two of three frozen there is no quorum, and nothing is written until they go on.
    let others: Vec<_> = (0..nodes.len()).filter(|place| *place != fourth).collect();
    for place in &others {
        nodes[*place].pause().unwrap();
    }
    let written = tokio::time::timeout(Duration::from_millis(500), issue(fourth)).await;
    assert!(!matches!(written, Ok(Ok(_))), "written without a quorum");
    for place in &others {
        nodes[*place].resume().unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    let health = nodes[leader].api("GET", "sys/leader", Value::Null).await;
    assert_eq!(health.unwrap()["is_self"], true);
}
