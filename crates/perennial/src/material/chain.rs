//! Which of the delivered certificates is ours, and what is presented with it. Pure: reads no clock.
//!
//! A server judges a certificate, not we: what may work is presented, with a warning where it may
//! not. Nothing here makes a certificate a root but [`roots_of_chain`].

use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;

use super::certificate::{Certificate, PublicKey};
use super::error::MaterialError;
use super::usage::Usage;

mod graph;
pub(crate) use graph::Chains;
use graph::{Graph, MOST_BYTES, MOST_PRESENTED};
mod node;
use node::{Node, read};

/// What was delivered, and what it is for.
pub(crate) struct Delivered<'a> {
    pub(crate) chain: &'a [CertificateDer<'static>],
    pub(crate) roots: &'a [CertificateDer<'static>],
    /// `None` for a signer that does not reveal it: the first certificate is then the leaf.
    pub(crate) key: Option<&'a PublicKey>,
    pub(crate) usage: Usage,
    pub(crate) now: SystemTime,
    pub(crate) provider: &'a CryptoProvider,
}

/// What is presented.
#[derive(Debug)]
pub(crate) struct Presented {
    pub(crate) leaf: Certificate,
    pub(crate) chains: Chains,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// The issuer that expires with or before the leaf, where no other path is left.
    pub(crate) limited_by: Option<String>,
    pub(crate) refused: Refused,
    pub(crate) warnings: Vec<String>,
}

/// What a leaf cannot be used for, whatever it is used for.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) as_client: Option<MaterialError>,
    pub(crate) as_server: Option<MaterialError>,
}

impl Delivered<'_> {
    /// Finds the leaf and its path, and checks their expiry and usage.
    pub(crate) fn presented(&self) -> Result<Presented, MaterialError> {
        let mut set = read(self.chain)?;
        let leaf = self.leaf(&set)?;
        // Keeps the order of the others.
        set[..=leaf].rotate_right(1);
        let graph = Graph::new(set, self.roots, self.provider);
        let leaf = &graph.set[0];
        let refused = Refused::of(leaf);
        let mut warnings = Vec::new();
        warnings.extend(refused.check(self.usage)?);

        let path = graph.path(self.now);
        let certificates = || path.iter().map(|&at| &graph.set[at].certificate);
        let start = leaf.certificate.not_before();
        let not_before = certificates().fold(start, |from, one| from.max(one.not_before()));
        let limiting = certificates()
            .skip(1)
            .filter(|issuer| issuer.not_after() <= leaf.certificate.not_after())
            .min_by_key(|issuer| issuer.not_after());
        let not_after = limiting.unwrap_or(&leaf.certificate).not_after();
        let limited_by = limiting.map(|issuer| issuer.subject().to_owned());
        if self.now >= not_after {
            return Err(MaterialError::Expired {
                not_after,
                limited_by: limiting.map(Certificate::shown),
            });
        }
        warnings.extend(graph.warnings(&path));
        let (chains, left_out) = graph.chains(&path);
        if left_out > 0 {
            warnings.push(format!(
                "{left_out} certificates of the chain are not presented: at most {MOST_PRESENTED} are, of {MOST_BYTES} bytes"
            ));
        }
        Ok(Presented {
            leaf: leaf.certificate.clone(),
            chains,
            not_before,
            not_after,
            limited_by,
            refused,
            warnings,
        })
    }

    /// The certificate whose key is ours; of several, the first that is valid and fits the usage.
    fn leaf(&self, set: &[Node<'_>]) -> Result<usize, MaterialError> {
        let Some(key) = self.key else {
            return Ok(0);
        };
        let rank = |node: &Node<'_>| {
            let certificate = &node.certificate;
            let validity = if self.now < certificate.not_before() {
                1
            } else if self.now < certificate.not_after() {
                0
            } else {
                2
            };
            (validity, Refused::of(node).check(self.usage).is_err())
        };
        let ours = set.iter().enumerate();
        let ours = ours.filter(|(_, node)| node.form.has_key(key));
        ours.min_by_key(|(_, node)| rank(node))
            .map(|(at, _)| at)
            .ok_or_else(|| mismatch(set))
    }
}

impl Refused {
    fn of(leaf: &Node<'_>) -> Self {
        let Node {
            certificate, form, ..
        } = leaf;
        let wrong_usage = |used_as| {
            let allows = form
                .purposes
                .clone()
                .filter(|purposes| !purposes.is_empty());
            MaterialError::WrongUsage {
                subject: certificate.shown(),
                allows: allows.unwrap_or_else(|| "nothing".to_owned()),
                used_as,
            }
        };
        let names = certificate.names();
        let as_server = if !certificate.allows_servers() {
            Some(wrong_usage(Usage::Server))
        } else if names.dns.is_empty() && names.ip.is_empty() && names.uri.is_empty() {
            let subject = certificate.shown();
            Some(MaterialError::NoServerName { subject })
        } else {
            None
        };
        let as_client = !certificate.allows_clients();
        Self {
            as_client: as_client.then(|| wrong_usage(Usage::Client)),
            as_server,
        }
    }

    /// A warning, if the leaf is for a part of its usage alone; an error if it is for none of it.
    fn check(&self, usage: Usage) -> Result<Option<String>, MaterialError> {
        match (usage, &self.as_client, &self.as_server) {
            (Usage::Client, Some(refused), _) | (Usage::Server, _, Some(refused)) => {
                Err(refused.clone())
            }
            (Usage::Both, Some(refused), Some(_)) => Err(match refused.clone() {
                MaterialError::WrongUsage {
                    subject, allows, ..
                } => MaterialError::WrongUsage {
                    subject,
                    allows,
                    used_as: usage,
                },
                other => other,
            }),
            (Usage::Both, Some(refused), None) | (Usage::Both, None, Some(refused)) => {
                Ok(Some(refused.to_string()))
            }
            _ => Ok(None),
        }
    }
}

/// Fails unless a certificate of the chain has this key.
pub(crate) fn check_key(
    chain: &[CertificateDer<'static>],
    key: &PublicKey,
) -> Result<(), MaterialError> {
    let set = read(chain)?;
    match set.iter().any(|node| node.form.has_key(key)) {
        true => Ok(()),
        false => Err(mismatch(&set)),
    }
}

fn mismatch(set: &[Node<'_>]) -> MaterialError {
    let first = set.first().map(|node| node.certificate.shown());
    MaterialError::KeyMismatch {
        first: first.unwrap_or_default(),
        certificates: set.len(),
    }
}

/// The roots that a chain brings along: the self-signed certificates in which its first
/// certificate's paths end.
///
/// For sources whose CA sends its roots in the chain. Every signature of such a path is verified,
/// with `provider`. A certificate that merely names itself as its issuer, or that is not a part of
/// a path, is left out. The signature of a root by itself may be of a kind that the provider does
/// not verify (SHA-1): the path's signature shows that it is the issuer.
///
/// Any root can certify the key of an issuer that it did not make: take the roots only of a chain
/// that its CA itself sent, on a connection that verified the CA.
///
/// # Errors
/// - A certificate cannot be parsed: [`MaterialError::Certificate`].
/// - There are more than 256: [`MaterialError::OtherContent`].
pub fn roots_of_chain(
    chain: &[CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let graph = Graph::new(read(chain)?, &[], provider);
    Ok(graph.own_roots())
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod sets_tests;
#[cfg(test)]
mod tests;
