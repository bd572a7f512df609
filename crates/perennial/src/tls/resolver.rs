use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SigningKey};

use super::identity::{Certified, cannot_sign};
use super::other_error;
use crate::material::chain::Chains;
use crate::material::{MaterialError, folded_der};

/// Presents the path that leads to a CA which the peer names.
///
/// OpenSSL takes the first issuer that fits and tries no other one: while a CA changes its root, a
/// server that trusts one of both roots needs the path to that one first. Servers name the CAs
/// that they trust in their request for a certificate.
pub(super) struct PathToPeersCa {
    /// For a peer that names none, or none that is known.
    first: Certified,
    /// The issuers of its path, in the form that is compared.
    issuers: Vec<Vec<u8>>,
    /// By the issuer to which each leads.
    others: Vec<(Vec<u8>, Certified)>,
    /// Why it is not presented to servers.
    no_client: Option<MaterialError>,
}

impl PathToPeersCa {
    pub(super) fn new(
        chains: Chains,
        key: &Arc<dyn SigningKey>,
        no_client: Option<MaterialError>,
    ) -> Self {
        let certified = |chain| Certified::from(CertifiedKey::new(chain, Arc::clone(key)));
        let others = chains.others.into_iter();
        Self {
            first: certified(chains.first),
            issuers: chains.issuers,
            others: others
                .map(|(issuer, chain)| (issuer, certified(chain)))
                .collect(),
            no_client,
        }
    }

    /// For a peer that names none.
    #[cfg(feature = "export")]
    pub(super) fn first(&self) -> &Certified {
        &self.first
    }

    /// For a peer that names these CAs.
    pub(super) fn to<'a>(&self, peers_cas: impl Iterator<Item = &'a [u8]>) -> &Certified {
        if self.others.is_empty() {
            return &self.first;
        }
        let named: Vec<_> = peers_cas.filter_map(folded_der).collect();
        if self.issuers.iter().any(|issuer| named.contains(issuer)) {
            return &self.first;
        }
        let mut others = self.others.iter();
        let other = others.find(|(issuer, _)| named.contains(issuer));
        other.map_or(&self.first, |(_, other)| other)
    }
}

impl ResolvesClientCert for PathToPeersCa {
    fn resolve(
        &self,
        servers_cas: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        if let Some(refused) = &self.no_client {
            return Some(cannot_sign(other_error(refused.clone())));
        }
        let certified = self.to(servers_cas.iter().copied());
        Some(Arc::clone(certified.as_client(schemes)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for PathToPeersCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathToPeersCa")
            .field("others", &self.others.len())
            .finish_non_exhaustive()
    }
}
