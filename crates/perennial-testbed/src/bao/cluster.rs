use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::life::{ACTIVE, Node, UNSEALED};
use super::listener::Listener;
use super::{NAME, OpenBao};
use crate::error::TestbedError;
use crate::locate;

/// How many there are: the fewest of which one can be missed.
const NODES: usize = 3;
/// Longer than any election by raft's own times.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

/// A real OpenBao of three raft nodes, each a process that can be stopped, paused and sealed by itself.
///
/// The PKI, the roles and the AppRole are those of a single [`OpenBao`]; every node answers for them. Dropping it ends
/// all nodes and removes their folders.
#[derive(Debug)]
pub struct OpenBaoCluster {
    nodes: Vec<OpenBao>,
}

/// How soon a cluster that has lost its leader elects another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Elections {
    /// Within some 2 s, for tests: `performance_multiplier = 1`, which OpenBao recommends for production.
    Quick,
    /// By OpenBao's own default (5): some 7 to 12 s.
    ByDefault,
}

impl OpenBaoCluster {
    /// Starts three nodes and waits until all of them vote, some 4 s.
    ///
    /// # Errors
    /// As [`Testbed::start`](crate::Testbed::start).
    ///
    /// # Cancel safety
    /// Cancelling it ends what was started.
    pub async fn start(elections: Elections) -> Result<Self, TestbedError> {
        let program = locate::openbao(&|_| ()).await?;
        let listener = Listener::create()?;
        let node = |id: usize| Node {
            id: format!("node{id}"),
            multiplier: match elections {
                Elections::Quick => 1,
                Elections::ByDefault => 5,
            },
            // The first one is alone until the others have joined.
            ready: if id == 1 { ACTIVE } else { UNSEALED },
        };
        let first = Box::pin(begin(&program, &listener, node(1))).await?;
        let (second, third) = tokio::try_join!(
            Box::pin(first.joined_by(&program, &listener, node(2))),
            Box::pin(first.joined_by(&program, &listener, node(3))),
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

    /// The nodes; which of them leads, [`OpenBaoCluster::leader`] says.
    pub fn nodes(&self) -> &[OpenBao] {
        &self.nodes
    }

    /// The nodes' addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(OpenBao::address).collect()
    }

    /// Waits until one node says that it leads, and returns its place among the nodes.
    ///
    /// # Errors
    /// [`TestbedError::Late`] where none does so within 40 s.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn leader(&self) -> Result<usize, TestbedError> {
        self.wait_for("led", async || self.leading().await).await
    }

    /// Waits until every node follows one leader with all that it has written, and returns that one's place.
    ///
    /// A node that has just started again is of no use for an election yet: whoever breaks the next one before has
    /// broken two of three.
    ///
    /// # Errors
    /// [`TestbedError::Late`] where they don't within 40 s.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn whole(&self) -> Result<usize, TestbedError> {
        self.wait_for("whole", async || {
            let leader = self.leading().await?;
            let led = self.nodes[leader].following().await?;
            for node in &self.nodes {
                let following = node.following().await?;
                let is_up_to_date = following.written >= led.written;
                (is_up_to_date && following.address == led.address).then_some(())?;
            }
            Some(leader)
        })
        .await
    }

    /// Has the leader give up its place, as before maintenance.
    ///
    /// # Errors
    /// As [`OpenBaoCluster::leader`] and [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// It may have done so nevertheless.
    pub async fn step_down(&self) -> Result<(), TestbedError> {
        let leader = self.leader().await?;
        let step_down = self.nodes[leader].api("PUT", "sys/step-down", Value::Null);
        step_down.await.map(drop)
    }

    /// How many certificates the nodes have issued or signed through the client roles, all together.
    ///
    /// A request that a standby forwards is in the log of the leader alone.
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
        for (place, node) in self.nodes.iter().enumerate() {
            if node.api.health().await == Some(200) {
                return Some(place);
            }
        }
        None
    }

    async fn wait_for<T>(
        &self,
        state: &'static str,
        ask: impl AsyncFn() -> Option<T>,
    ) -> Result<T, TestbedError> {
        let answered = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let late = |_| TestbedError::Late {
            server: NAME,
            state,
            waited: PATIENCE,
        };
        tokio::time::timeout(PATIENCE, answered).await.map_err(late)
    }
}

async fn begin(program: &Path, listener: &Listener, node: Node) -> Result<OpenBao, TestbedError> {
    let mut first = OpenBao::create(program, listener.clone(), &node)?;
    first.bring_up().await?;
    // By default a node may vote 10 s after it has joined.
    let ask = json!({"server_stabilization_time": "1s"});
    let path = "sys/storage/raft/autopilot/configuration";
    first.api("POST", path, ask).await?;
    first.ready = UNSEALED;
    Ok(first)
}

/// Whom a node follows, and how far.
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

    /// A further node of this one's cluster, which shares all that it holds.
    async fn joined_by(
        &self,
        program: &Path,
        listener: &Listener,
        node: Node,
    ) -> Result<Self, TestbedError> {
        let mut joining = Self::create(program, listener.clone(), &node)?;
        joining.launch().await?;
        let ask = json!({"leader_api_addr": self.address(), "leader_ca_cert": self.ca_pem()});
        let join = joining.api("POST", "sys/storage/raft/join", ask);
        join.await?;
        joining.unseal_key.clone_from(&self.unseal_key);
        joining.roots_pem.clone_from(&self.roots_pem);
        joining.approle = self.approle.clone();
        joining.api = self.api.for_port(joining.port);
        joining.unseal().await?;
        Ok(joining)
    }
}
