//! Certificates from a real OpenBao: ours compared with a bare client and with OpenBao's own agent.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use perennial_testbed::{AppRole, BaoAgent, OpenBao};
use perennial_vault::{Auth, Vault, VaultBuilder, VaultError, VaultPki, VaultPkiBuilder};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

mod hundred;
mod outage;
mod rate;

pub use hundred::{Hundred, Keeper, keep};
pub use outage::{LeaderLoss, Outage, lost_leader_agent, lost_leader_ours, outage};
pub use rate::{Bare, IN_FLIGHT, Ours, Turn};

/// Interval between two checks of a condition.
const POLL: Duration = Duration::from_millis(2);

/// Time limit for everything: the agent waits up to a minute between two attempts.
const LIMIT: Duration = Duration::from_secs(150);

/// Waits until the agent has written every certificate.
async fn wait_written(agent: &BaoAgent) -> anyhow::Result<()> {
    let all = async {
        // The agent writes by renaming, so an existing file is complete.
        while !agent.certificates().iter().all(|path| path.exists()) {
            sleep(POLL).await;
        }
    };
    let in_time = timeout(LIMIT, all).await;
    in_time.with_context(|| {
        format!(
            "the agent has not written all files; its log:\n{}",
            agent.log()
        )
    })
}

/// Waits until the content of the file differs from `old`.
async fn wait_changed(file: &Path, old: &[u8]) -> anyhow::Result<()> {
    while std::fs::read(file)? == old {
        sleep(POLL).await;
    }
    Ok(())
}

/// The server and the credentials for certificates, in a form for another process.
#[derive(Clone, Serialize, Deserialize)]
pub struct Place {
    address: String,
    ca_pem: String,
    role_id: String,
    secret_id: String,
    mount: String,
    role: String,
    /// The root of the PKI.
    roots_pem: String,
}

impl Place {
    /// The client role of this server.
    pub fn of(bao: &OpenBao) -> Self {
        let AppRole {
            role_id, secret_id, ..
        } = bao.approle().clone();
        Self {
            address: bao.address(),
            ca_pem: bao.ca_pem().to_owned(),
            role_id,
            secret_id,
            mount: bao.mount().to_owned(),
            role: bao.client_role().to_owned(),
            roots_pem: bao.roots_pem().to_owned(),
        }
    }

    /// A source of certificates for `name`, valid for `lifetime` (whole seconds).
    ///
    /// # Errors
    /// As [`VaultPkiBuilder::build`].
    pub fn source(&self, name: &str, lifetime: Duration) -> Result<VaultPki, VaultError> {
        self.pki(&self.vault().build()?, name, lifetime).build()
    }

    /// Sources for all these names, which share one login.
    fn sources(&self, names: &[String], lifetime: Duration) -> Result<Vec<VaultPki>, VaultError> {
        let vault = self.vault().build()?;
        let sources = names
            .iter()
            .map(|name| self.pki(&vault, name, lifetime).build());
        sources.collect()
    }

    fn vault(&self) -> VaultBuilder {
        Vault::builder(&self.address)
            .ca_pem(&self.ca_pem)
            .auth(Auth::approle(&*self.role_id, &*self.secret_id))
    }

    fn pki(&self, vault: &Vault, name: &str, lifetime: Duration) -> VaultPkiBuilder {
        vault
            .pki(&self.mount)
            .role(&self.role)
            .common_name(name)
            .ttl(lifetime)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
