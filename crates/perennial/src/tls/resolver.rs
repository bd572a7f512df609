use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::identity::ClientIdentity;
use crate::material::folded_der;

/// Presents the path that leads to a CA which the server names.
///
/// OpenSSL takes the first issuer that fits and tries no other one: while a CA changes its root, a
/// server that trusts one of both roots needs the path to that one first. Servers name the CAs
/// that they trust in their request for a certificate.
pub(super) struct PathToServersCa {
    /// For a server that names none, or none that is known.
    pub(super) first: ClientIdentity,
    /// The issuers of its path, in the form that is compared.
    pub(super) issuers: Vec<Vec<u8>>,
    /// By the issuer to which each leads.
    pub(super) others: Vec<(Vec<u8>, ClientIdentity)>,
}

impl ResolvesClientCert for PathToServersCa {
    fn resolve(
        &self,
        servers_cas: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let mut found = &self.first;
        if !self.others.is_empty() {
            let named: Vec<_> = servers_cas
                .iter()
                .filter_map(|name| folded_der(name))
                .collect();
            let other = self
                .others
                .iter()
                .find(|(issuer, _)| named.contains(issuer));
            if !self.issuers.iter().any(|issuer| named.contains(issuer))
                && let Some((_, other)) = other
            {
                found = other;
            }
        }
        found.resolve(servers_cas, schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for PathToServersCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathToServersCa")
            .field("others", &self.others.len())
            .finish_non_exhaustive()
    }
}
