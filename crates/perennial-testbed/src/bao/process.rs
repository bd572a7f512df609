//! Starts, seals, stops and pauses the process.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::api::{Api, Listener, text};
use super::audit::Tally;
use super::{AUDIT_LOG, AppRole, NAME, OpenBao, pki};
use crate::error::TestbedError;
use crate::folder::Folder;
use crate::server::{Launch, Server, free_port};

/// Attempts to start: another process may take a free port first.
const TRIES: u32 = 3;

impl OpenBao {
    pub(crate) async fn start(program: PathBuf) -> Result<Self, TestbedError> {
        let mut tries = 1;
        loop {
            let mut bao = Self::create(&program, Listener::create()?, &Node::alone())?;
            let result = bao.bring_up().await;
            // OpenBao binds the cluster port only when it is unsealed, and reports a conflict there only in its log.
            let conflict = result.is_err() && bao.log().contains("address already in use");
            if !conflict || tries == TRIES {
                return result.map(|()| bao);
            }
            tries += 1;
        }
    }

    pub(super) fn create(
        program: &Path,
        listener: Listener,
        node: &Node,
    ) -> Result<Self, TestbedError> {
        let folder = Folder::create("bao", None)?;
        let (port, cluster_port) = (free_port()?, free_port()?);
        listener.install(&folder)?;
        let config = config(&folder, port, cluster_port, node);
        folder.write(&folder.private().join("config.hcl"), &config, None)?;

        Ok(Self {
            server: Server::new(NAME, Signal::KILL, folder)?,
            program: program.to_path_buf(),
            port,
            ready: node.ready,
            api: Api::new(port, &listener)?,
            listener,
            unseal_key: String::new(),
            roots_pem: String::new(),
            approle: AppRole {
                role_id: String::new(),
                secret_id: String::new(),
            },
            tally: Mutex::new(Tally::default()),
        })
    }

    pub(super) async fn bring_up(&mut self) -> Result<(), TestbedError> {
        self.launch().await?;
        let shares = json!({"secret_shares": 1, "secret_threshold": 1});
        let reply = self.api.call("PUT", "sys/init", shares).await?;
        self.unseal_key = text(&reply["keys_base64"][0], "keys_base64")?;
        self.api
            .set_token(&text(&reply["root_token"], "root_token")?)?;
        self.unseal().await?;
        pki::set_up(self).await
    }

    /// Seals OpenBao, about 1 s. From then on it refuses every request except unsealing, with status 503.
    ///
    /// # Errors
    /// [`TestbedError::NoReply`] while it is stopped.
    ///
    /// # Cancel safety
    /// OpenBao may still be sealed.
    pub async fn seal(&self) -> Result<(), TestbedError> {
        self.api("PUT", "sys/seal", Value::Null).await.map(drop)
    }

    /// Unseals OpenBao and waits until it is active, about 0.1 s; a node of a cluster may be a standby instead.
    ///
    /// # Errors
    /// [`TestbedError::NoReply`] while it is stopped, [`TestbedError::Late`] if it does not become active.
    ///
    /// # Cancel safety
    /// OpenBao may still be unsealed.
    pub async fn unseal(&self) -> Result<(), TestbedError> {
        let key = json!({"key": self.unseal_key});
        self.api("PUT", "sys/unseal", key).await?;
        self.wait_for("active", self.ready).await
    }

    /// Kills the process, like a crash. Its storage is kept. Does nothing while it is stopped.
    ///
    /// # Errors
    /// None at present.
    ///
    /// # Cancel safety
    /// Call it again.
    pub async fn stop(&self) -> Result<(), TestbedError> {
        self.server.stop(Signal::KILL).await;
        Ok(())
    }

    /// Starts the process again after [`OpenBao::stop`]: same port, storage and tokens; unsealed and active.
    ///
    /// # Errors
    /// [`TestbedError::NotStarted`] if its port was taken in the meantime, otherwise as [`OpenBao::unseal`].
    ///
    /// # Cancel safety
    /// OpenBao may be left sealed: call [`OpenBao::unseal`].
    pub async fn start_again(&self) -> Result<(), TestbedError> {
        if !self.server.runs() {
            self.launch().await?;
        }
        self.unseal().await
    }

    /// Pauses the process: the kernel still accepts connections, but no request is answered.
    ///
    /// # Errors
    /// [`TestbedError::Stopped`] while it is stopped.
    pub fn pause(&self) -> Result<(), TestbedError> {
        self.server.signal(Signal::STOP)
    }

    /// Resumes a paused process.
    ///
    /// # Errors
    /// [`TestbedError::Stopped`] while it is stopped.
    pub fn resume(&self) -> Result<(), TestbedError> {
        self.server.signal(Signal::CONT)
    }

    pub(super) async fn launch(&self) -> Result<(), TestbedError> {
        let config = self.server.folder().private().join("config.hcl");
        self.server.launch(&Launch {
            program: &self.program,
            arguments: vec!["server".into(), "-config".into(), config.into()],
            user: None,
            environment: &[],
        })?;
        self.wait_for("listening", &[]).await
    }

    /// Waits until the health endpoint replies with one of these statuses, or with any if `wanted` is empty.
    async fn wait_for(&self, state: &'static str, wanted: &[u16]) -> Result<(), TestbedError> {
        let reached = || async {
            let now = self.api.health().await?;
            (wanted.is_empty() || wanted.contains(&now)).then_some(())
        };
        self.server.until(state, reached).await
    }
}

/// The health status of the leader.
pub(super) const ACTIVE: &[u16] = &[200];
/// The health statuses of a leader and of a standby.
pub(super) const UNSEALED: &[u16] = &[200, 429];

/// The settings of one raft node.
pub(super) struct Node {
    pub(super) id: String,
    /// `performance_multiplier`: the factor for raft's timing.
    pub(super) multiplier: u32,
    /// The statuses of the health endpoint that unsealing waits for.
    pub(super) ready: &'static [u16],
}

impl Node {
    /// The only node: it elects itself after 1 to 2 s instead of 5 to 10 s.
    fn alone() -> Self {
        Self {
            id: "testbed".to_owned(),
            multiplier: 1,
            ready: ACTIVE,
        }
    }
}

/// The configuration file.
///
/// It declares the audit device, because the API refuses to enable one. The device's path is relative to the node's
/// own folder, because every node of a cluster must declare the same path. The autopilot intervals let a new node vote
/// early: with the defaults it votes only after 10 s or more.
fn config(folder: &Folder, port: u16, cluster_port: u16, node: &Node) -> String {
    let private = folder.private();
    let private = private.display();
    let Node { id, multiplier, .. } = node;
    format!(
        r#"ui = false
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
storage "raft" {{
  path = "{private}"
  node_id = "{id}"
  performance_multiplier = {multiplier}
  autopilot_reconcile_interval = "200ms"
  autopilot_update_interval = "200ms"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file = "{private}/listener.crt"
  tls_key_file = "{private}/listener.key"
}}
audit "file" "log" {{
  options {{
    file_path = "{AUDIT_LOG}"
  }}
}}
"#
    )
}
