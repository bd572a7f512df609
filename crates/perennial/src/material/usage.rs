use std::fmt;

use super::certificate::{Certificate, Form};
use super::error::MaterialError;

/// What a certificate is used for.
///
/// A leaf whose extended key usage allows none of it is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Usage {
    /// To connect to servers; needs roots to verify them with.
    #[default]
    Client,
    /// To accept clients.
    Server,
    /// Both. A leaf that allows only one of them is used, with a warning.
    Both,
}

impl Usage {
    /// Whether servers are verified with the certificate's roots.
    pub(crate) fn verifies_servers(self) -> bool {
        self != Self::Server
    }

    /// Whether the leaf allows any of it.
    pub(super) fn is_allowed_by(self, leaf: &Certificate) -> bool {
        match self {
            Self::Client => leaf.allows_clients(),
            Self::Server => leaf.allows_servers(),
            Self::Both => leaf.allows_clients() || leaf.allows_servers(),
        }
    }

    /// A warning, if the leaf allows a part of it.
    pub(super) fn check(
        self,
        leaf: &Certificate,
        form: &Form,
    ) -> Result<Option<String>, MaterialError> {
        let allows = match form.purposes.as_deref() {
            None => return Ok(None),
            Some("") => "nothing",
            Some(purposes) => purposes,
        };
        if !self.is_allowed_by(leaf) {
            return Err(MaterialError::WrongUsage {
                subject: leaf.shown(),
                allows: allows.to_owned(),
                used_as: self,
            });
        }
        let is_partial = self == Self::Both && !(leaf.allows_clients() && leaf.allows_servers());
        Ok(is_partial.then(|| {
            let subject = leaf.shown();
            format!("the extended key usage of {subject} allows {allows} alone, but it is used as {self}")
        }))
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "a TLS client (clientAuth)",
            Self::Server => "a TLS server (serverAuth)",
            Self::Both => "a TLS client and server (clientAuth, serverAuth)",
        })
    }
}
