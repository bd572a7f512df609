//! What certificates from a real OpenBao cost, beside a bare client and beside OpenBao's own agent.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use perennial_testbed::{AppRole, BaoAgent, OpenBao};
use perennial_vault::{Auth, BuildError, VaultPki, VaultPkiBuilder};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

mod bare;
mod hundred;
mod leader;
mod outage;
mod rate;

pub use bare::Bare;
pub use hundred::{Hundred, Keeper, keep};
pub use leader::{Loss, lost_by_agent, lost_by_us};
pub use outage::{Outage, outage};
pub use rate::{IN_FLIGHT, Ours, Turn};

/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Longer than anything takes: the agent waits for a minute at most between its tries.
const PATIENCE: Duration = Duration::from_secs(150);

/// Waits until the agent has written every certificate.
async fn written(agent: &BaoAgent) -> anyhow::Result<()> {
    let all = async {
        // It writes by renaming: what is there is whole.
        while !agent.certificates().iter().all(|path| path.exists()) {
            sleep(LOOK).await;
        }
    };
    let in_time = timeout(PATIENCE, all).await;
    in_time.with_context(|| format!("files are missing:\n{}", agent.log()))
}

/// Waits until this is not what is in the file any more.
async fn changed(file: &Path, old: &[u8]) -> anyhow::Result<()> {
    while std::fs::read(file)? == old {
        sleep(LOOK).await;
    }
    Ok(())
}

/// Where certificates are to be had, and as whom: all that another process must be told.
#[derive(Clone, Serialize, Deserialize)]
pub struct Place {
    address: String,
    ca_pem: String,
    role_id: String,
    secret_id: String,
    mount: String,
    role: String,
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
        }
    }

    /// A source of certificates for `name` that live for whole seconds of `life`.
    ///
    /// # Errors
    /// As [`perennial_vault::VaultPkiBuilder::build`].
    pub fn source(&self, name: &str, life: Duration) -> Result<VaultPki, BuildError> {
        self.builder(name, life).build()
    }

    /// Sources for all these names, which log in once.
    fn sources(&self, names: &[String], life: Duration) -> Result<Vec<VaultPki>, BuildError> {
        let mut all: Vec<VaultPki> = Vec::with_capacity(names.len());
        for name in names {
            all.push(match all.first() {
                None => self.source(name, life)?,
                Some(first) => self.certificate(first.another(), name, life).build()?,
            });
        }
        Ok(all)
    }

    fn builder(&self, name: &str, life: Duration) -> VaultPkiBuilder {
        let builder = VaultPki::builder(&self.address)
            .ca_pem(&self.ca_pem)
            .auth(Auth::approle(&*self.role_id, &*self.secret_id));
        self.certificate(builder, name, life)
    }

    fn certificate(&self, of: VaultPkiBuilder, name: &str, life: Duration) -> VaultPkiBuilder {
        of.mount(&*self.mount)
            .role(&*self.role)
            .common_name(name)
            .ttl(life)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
