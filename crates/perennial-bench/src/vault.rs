//! What certificates from a real OpenBao cost, beside a bare client and beside OpenBao's own agent.

use std::fmt;
use std::time::Duration;

use perennial_testbed::{AppRole, OpenBao};
use perennial_vault::{Auth, BuildError, VaultPki};
use serde::{Deserialize, Serialize};

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
        VaultPki::builder(&self.address)
            .ca_pem(&self.ca_pem)
            .auth(Auth::approle(&*self.role_id, &*self.secret_id))
            .mount(&*self.mount)
            .role(&*self.role)
            .common_name(name)
            .ttl(life)
            .build()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
