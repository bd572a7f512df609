//! Three nodes of one OpenBao.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::Listener;
use super::process::{ACTIVE, Node, UNSEALED};
use super::{NAME, OpenBao};
use crate::error::TestbedError;
use crate::locate;

/// The smallest cluster that survives the loss of one node.
const NODES: usize = 3;
/// Longer than any election with raft's default timing.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

/// A real OpenBao of three raft nodes, each a process that can be stopped, paused and sealed on its own.
///
/// The PKI, the roles and the AppRole are those of a single [`OpenBao`], and every node serves them. Dropping it ends
/// all nodes and removes their folders.
#[derive(Debug)]
pub struct OpenBaoCluster {
    nodes: Vec<OpenBao>,
}

/// How fast a cluster without a leader elects a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Elections {
    /// Within about 2 s, for tests: `performance_multiplier = 1`, which OpenBao recommends for production.
    Quick,
    /// With OpenBao's default of 5: about 7 to 12 s.
    ByDefault,
}

impl OpenBaoCluster {
    /// Starts three nodes and waits until all of them vote, about 4 s.
    ///
    /// # Errors
    /// As [`Testbed::start`](crate::Testbed::start).
    ///
    /// # Cancel safety
    /// Cancelling ends the nodes that were started.
    pub async fn start(elections: Elections) -> Result<Self, TestbedError> {
        let program = locate::openbao(&|_| ()).await?;
        let listener = Listener::create()?;
        let node = |id: usize| Node {
            id: format!("node{id}"),
            multiplier: match elections {
                Elections::Quick => 1,
                Elections::ByDefault => 5,
            },
            // The first node is alone until the others have joined.
            ready: if id == 1 { ACTIVE } else { UNSEALED },
        };
        let first = Box::pin(first_node(&program, &listener, node(1))).await?;
        let (second, third) = tokio::try_join!(
            Box::pin(first.add_node(&program, &listener, node(2))),
            Box::pin(first.add_node(&program, &listener, node(3))),
        )?;
        let cluster = Self {
            nodes: vec![first, second, third],
        };
        let voting = cluster.wait_for("voting", async || {
            let path = "sys/storage/raft/configuration";
            let reply = cluster.nodes[0].api("GET", path, Value::Null).await.ok()?;
            let servers = reply["data"]["config"]["servers"].as_array()?;
            let voters = servers.iter().filter(|server| server["voter"] == true);
            (voters.count() == NODES).then_some(())
        });
        voting.await?;
        Ok(cluster)
    }

    /// The nodes. [`OpenBaoCluster::leader`] returns which one leads.
    pub fn nodes(&self) -> &[OpenBao] {
        &self.nodes
    }

    /// The nodes' addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(OpenBao::address).collect()
    }

    /// Waits until a node leads, and returns its index in [`OpenBaoCluster::nodes`].
    ///
    /// # Errors
    /// [`TestbedError::Late`] if no node leads within 40 s.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn leader(&self) -> Result<usize, TestbedError> {
        self.wait_for("led by a node", async || self.leading().await)
            .await
    }

    /// Waits until every node follows one leader and has all its data, and returns the leader's index.
    ///
    /// A node that was just restarted cannot take part in an election yet: a test that stops the next node too early
    /// has stopped two of three.
    ///
    /// # Errors
    /// [`TestbedError::Late`] if this takes more than 40 s.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn whole(&self) -> Result<usize, TestbedError> {
        self.wait_for("whole", async || {
            let leader = self.leading().await?;
            let latest = self.nodes[leader].following().await?;
            for node in &self.nodes {
                let following = node.following().await?;
                let is_up_to_date = following.written >= latest.written;
                (is_up_to_date && following.address == latest.address).then_some(())?;
            }
            Some(leader)
        })
        .await
    }

    /// Makes the leader step down, as an operator does before maintenance.
    ///
    /// # Errors
    /// As [`OpenBaoCluster::leader`] and [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// The leader may still step down.
    pub async fn step_down(&self) -> Result<(), TestbedError> {
        let leader = self.leader().await?;
        let step_down = self.nodes[leader].api("PUT", "sys/step-down", Value::Null);
        step_down.await.map(drop)
    }

    /// The number of certificates that all nodes together have issued or signed through the client roles.
    ///
    /// A request that a standby forwards appears only in the leader's log.
    ///
    /// # Errors
    /// As [`OpenBao::issued`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn issued(&self) -> Result<u64, TestbedError> {
        let mut issued = 0;
        for node in &self.nodes {
            issued += node.issued().await?;
        }
        Ok(issued)
    }

    async fn leading(&self) -> Option<usize> {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.api.health().await == Some(200) {
                return Some(index);
            }
        }
        None
    }

    async fn wait_for<T>(
        &self,
        state: &'static str,
        poll: impl AsyncFn() -> Option<T>,
    ) -> Result<T, TestbedError> {
        let reached = async {
            loop {
                if let Some(value) = poll().await {
                    return value;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let late = |_| TestbedError::Late {
            server: NAME,
            state,
            waited: PATIENCE,
        };
        tokio::time::timeout(PATIENCE, reached).await.map_err(late)
    }
}

async fn first_node(
    program: &Path,
    listener: &Listener,
    node: Node,
) -> Result<OpenBao, TestbedError> {
    let mut first = OpenBao::create(program, listener.clone(), &node)?;
    first.bring_up().await?;
    // By default a node may vote only 10 s after it has joined.
    let body = json!({"server_stabilization_time": "1s"});
    let path = "sys/storage/raft/autopilot/configuration";
    first.api("POST", path, body).await?;
    first.ready = UNSEALED;
    Ok(first)
}

/// The leader that a node follows, and how much of its data the node has.
struct Following {
    address: String,
    written: u64,
}

impl OpenBao {
    async fn following(&self) -> Option<Following> {
        let reply = self.api("GET", "sys/leader", Value::Null).await.ok()?;
        Some(Following {
            address: reply["leader_address"].as_str()?.to_owned(),
            written: reply["raft_applied_index"].as_u64()?,
        })
    }

    /// Adds a node to this node's cluster.
    async fn add_node(
        &self,
        program: &Path,
        listener: &Listener,
        node: Node,
    ) -> Result<Self, TestbedError> {
        let mut joining = Self::create(program, listener.clone(), &node)?;
        joining.launch().await?;
        let body = json!({"leader_api_addr": self.address(), "leader_ca_cert": self.ca_pem()});
        let join = joining.api("POST", "sys/storage/raft/join", body);
        join.await?;
        joining.unseal_key.clone_from(&self.unseal_key);
        joining.roots_pem.clone_from(&self.roots_pem);
        joining.approle = self.approle.clone();
        joining.api = self.api.for_port(joining.port);
        joining.unseal().await?;
        Ok(joining)
    }
}
