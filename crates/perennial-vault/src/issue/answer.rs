//! Vault's answer, checked against what was requested.

use std::slice;
use std::time::{Duration, SystemTime};

use perennial::Certificate;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::request::CertRequest;
use super::skew;
use crate::error::Problem;
use crate::http::{SecretText, default_provider, private_key};
use crate::verdict::Operation;

/// A certificate whose lifetime is a smaller share of the requested `ttl` is refused.
///
/// A role's `max_ttl` may shorten the lifetime, and the renewer copes with that. This is about a CA
/// that expires: with `leaf_not_after_behavior=truncate` it issues expired certificates.
const SHORTEST_SHARE: f64 = 0.01;

/// The answer to a signing or issue request.
///
/// vaultrs' own type is not used: its `Debug` prints the key, which it does not wipe either.
#[derive(Deserialize)]
pub(crate) struct IssueReply {
    data: Option<Issued>,
    pub(crate) warnings: Option<Vec<String>>,
}

/// In PEM, each certificate on its own: without line ends between them, they cannot be joined.
#[derive(Deserialize)]
struct Issued {
    certificate: String,
    issuing_ca: String,
    ca_chain: Option<Vec<String>>,
    /// Only in the answer to an issue request.
    private_key: Option<SecretText>,
}

/// What the answer must match.
pub(crate) struct Expected<'a> {
    pub(crate) operation: Operation,
    pub(crate) request: &'a CertRequest,
    /// The `ttl` of the last request; `None` leaves it to the role.
    pub(crate) ttl: Option<Duration>,
    /// The server's clock.
    pub(crate) server_now: Option<SystemTime>,
    pub(crate) now: SystemTime,
}

/// The certificates of an answer that matches.
pub(crate) struct Accepted {
    /// Leaf first, in the order of the answer.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The self-signed certificates in which the leaf's paths end.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// The leaf as Vault sent it.
    pub(crate) pem: String,
    pub(crate) not_after: SystemTime,
    /// The server's clock, where it differs from ours.
    pub(crate) issuers_clock: Option<SystemTime>,
    /// Set where the clocks differ too much.
    pub(crate) warning: Option<&'static str>,
}

impl IssueReply {
    /// The certificates, unless they are not what was requested.
    ///
    /// The core checks that the chain is complete and belongs to the key.
    pub(crate) fn accept(&self, expected: &Expected<'_>) -> Result<Accepted, Problem> {
        let operation = expected.operation;
        let issued = self.issued(operation)?;
        let mut chain = certificates(&issued.certificate, operation)?;
        let leaf = chain
            .first()
            .ok_or_else(|| unusable(operation, "it holds no certificate"))?;
        let leaf = parsed(leaf, operation)?;
        check_names(&leaf, expected.request)?;
        let warning = check_lifetime(&leaf, expected)?;
        let issuers = match issued.ca_chain.as_deref() {
            // Absent, null or empty: a role or mount that leaves roots out of its chains.
            None | Some([]) => slice::from_ref(&issued.issuing_ca),
            Some(texts) => texts,
        };
        for text in issuers {
            chain.extend(certificates(text, operation)?);
        }
        let roots = roots_of(&chain, operation)?;
        Ok(Accepted {
            chain,
            roots,
            pem: issued.certificate.clone(),
            not_after: leaf.not_after(),
            issuers_clock: expected
                .server_now
                .filter(|theirs| skew::differs(expected.now, *theirs)),
            warning,
        })
    }

    /// The key that Vault generated.
    pub(crate) fn key(
        &self,
        operation: Operation,
    ) -> Result<Zeroizing<PrivateKeyDer<'static>>, Problem> {
        let Some(pem) = &self.issued(operation)?.private_key else {
            return Err(unusable(operation, "it holds no private key"));
        };
        private_key(pem.expose()).ok_or_else(|| unusable(operation, "its private key is not PEM"))
    }

    fn issued(&self, operation: Operation) -> Result<&Issued, Problem> {
        let data = self.data.as_ref();
        data.ok_or_else(|| unusable(operation, "it holds no data"))
    }
}

/// Both, without duplicates.
pub(crate) fn union(
    one: &[CertificateDer<'static>],
    other: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    let mut both = one.to_vec();
    for der in other {
        if !both.contains(der) {
            both.push(der.clone());
        }
    }
    both
}

pub(crate) fn certificates(
    pem: &str,
    operation: Operation,
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    // The parser's error quotes the text.
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_error| unusable(operation, "a certificate in it is not PEM"))
}

/// The self-signed certificates in which the paths of the first one end.
///
/// A certificate that only names itself as its issuer, as a CA issues it when its key changes, never
/// becomes a root. One that rustls cannot use as a root is left out.
pub(crate) fn roots_of(
    chain: &[CertificateDer<'static>],
    operation: Operation,
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let mut roots = perennial::roots_of_chain(chain, &default_provider())
        .map_err(|_error| unusable(operation, "a certificate in it is malformed"))?;
    roots.retain(|root| {
        let added = RootCertStore::empty().add(root.clone());
        if let Err(error) = &added {
            let subject = Certificate::from_der(root).map(|root| root.subject().to_owned());
            let subject = subject.unwrap_or_default();
            tracing::warn!(subject, %error, "a root of the mount's issuers is left out");
        }
        added.is_ok()
    });
    Ok(roots)
}

fn parsed(der: &CertificateDer<'_>, operation: Operation) -> Result<Certificate, Problem> {
    Certificate::from_der(der)
        .map_err(|_error| unusable(operation, "a certificate in it is malformed"))
}

fn check_names(leaf: &Certificate, request: &CertRequest) -> Result<(), Problem> {
    let lacks = |kind, name: &dyn ToString| Err(Problem::Names(kind, name.to_string()));
    let names = leaf.names();
    if let Some(name) = &request.common_name
        && names.common_name.as_ref() != Some(name)
    {
        return lacks("common name", name);
    }
    for name in &request.dns {
        if !names.dns.iter().any(|dns| dns.eq_ignore_ascii_case(name)) {
            return lacks("DNS name", name);
        }
    }
    for address in &request.ip {
        if !names.ip.contains(address) {
            return lacks("IP address", address);
        }
    }
    for uri in &request.uri {
        if !names.uri.contains(uri) {
            return lacks("URI", uri);
        }
    }
    Ok(())
}

/// Checks by the server's clock, independent of ours; the core checks by ours.
///
/// Only here are both known, so the error can name the clock that is wrong.
fn check_lifetime(
    leaf: &Certificate,
    expected: &Expected<'_>,
) -> Result<Option<&'static str>, Problem> {
    let begins = expected.server_now.unwrap_or_else(|| leaf.not_before());
    let got = leaf.not_after().duration_since(begins).unwrap_or_default();
    if got.is_zero() {
        return Err(Problem::Expired);
    }
    match expected.ttl {
        Some(requested) if got < requested.mul_f64(SHORTEST_SHARE) => {
            return Err(Problem::ShortLifetime { requested, got });
        }
        _ => {}
    }
    if let Some(theirs) = expected.server_now
        && let Ok(ahead) = expected.now.duration_since(theirs)
        && expected.now >= leaf.not_after()
    {
        return Err(Problem::ClockAhead(Duration::from_secs(ahead.as_secs())));
    }
    let warning = |theirs| skew::warning(expected.now, theirs, leaf.not_before(), leaf.not_after());
    Ok(expected.server_now.and_then(warning))
}

fn unusable(operation: Operation, problem: &'static str) -> Problem {
    Problem::Unusable(operation, problem)
}
