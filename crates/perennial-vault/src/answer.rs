//! Vault's answer, checked against what was asked, as material.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::slice;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::CertMaterial;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::error::{Step, VaultError};
use crate::request::CertRequest;
use crate::skew;

mod above_leaf;
pub(crate) use above_leaf::{AboveLeaf, LastAboveLeaf};

/// A certificate that lives for a smaller share of the asked `ttl` is refused.
///
/// A role's `max_ttl` may well shorten a life, and the renewer copes. This is about a CA at its
/// own end: with `leaf_not_after_behavior=truncate` it issues certificates that have expired.
pub const SHORTEST_SHARE: f64 = 0.01;

/// What Vault answers with.
///
/// Not vaultrs' own type: its `Debug` prints the key, which it does not wipe either.
#[derive(Deserialize)]
pub(crate) struct Answer {
    pub(crate) data: Option<Issued>,
    pub(crate) warnings: Option<Vec<String>>,
}

/// The certificate in PEM, as all of it.
#[derive(Deserialize)]
pub(crate) struct Issued {
    certificate: String,
    issuing_ca: String,
    ca_chain: Option<Vec<String>>,
    /// Of `issue` alone.
    private_key: Option<Zeroizing<String>>,
}

impl Issued {
    /// The key that Vault made.
    pub(crate) fn key(&self) -> Result<Zeroizing<PrivateKeyDer<'static>>, VaultError> {
        let Some(pem) = &self.private_key else {
            return Err(unusable("it holds no private key"));
        };
        PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_may_quote_the_key| unusable("its private key is not PEM"))
    }

    /// In PEM, one by one: without a line end, two of them cannot be joined.
    fn above_leaf(&self) -> &[String] {
        match self.ca_chain.as_deref() {
            // Absent, null or empty: a role or mount that leaves roots out of its chains.
            None | Some([]) => slice::from_ref(&self.issuing_ca),
            Some(texts) => texts,
        }
    }
}

/// What servers are verified by.
#[derive(Clone, Copy)]
pub(crate) enum ServerRoots<'a> {
    /// These, and no others.
    Fixed(&'a [CertificateDer<'static>]),
    /// Those in the answer, and these that the mount's other issuers lead to.
    Followed(&'a [CertificateDer<'static>]),
}

/// What the answer is held against.
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a CertRequest,
    /// What was asked for last; `None` leaves it to the role.
    pub(crate) ttl: Option<Duration>,
    pub(crate) server_roots: ServerRoots<'a>,
    pub(crate) last: &'a LastAboveLeaf,
    /// The server's clock at the answer.
    pub(crate) server_now: Option<SystemTime>,
    /// Ours.
    pub(crate) now: SystemTime,
}

/// An answer that is what was asked for.
pub(crate) struct Taken {
    pub(crate) material: CertMaterial,
    pub(crate) above_leaf: Arc<AboveLeaf>,
    /// Where the clocks differ too much.
    pub(crate) warning: Option<&'static str>,
}

/// Makes material of an answer, unless it is not what was asked for.
///
/// That the chain links up and belongs to the key is checked by the core.
pub(crate) fn take(
    answer: &Issued,
    key: &PrivateKeyDer<'static>,
    asked: &Asked<'_>,
) -> Result<Taken, VaultError> {
    let mut chain = certificates(&answer.certificate)?;
    let leaf = chain
        .first()
        .ok_or_else(|| unusable("it holds no certificate"))?;
    let leaf = parsed(leaf)?;
    names_are_as_asked(&leaf, asked.request)?;
    let warning = life_is_as_asked(&leaf, asked)?;

    let above_leaf = asked.last.or_read(answer.above_leaf())?;
    let (roots, issue_leaf) = match asked.server_roots {
        ServerRoots::Fixed(roots) => (roots.to_vec(), false),
        // Those in the answer came as the leaf's own issuers.
        ServerRoots::Followed(others) => (
            union(&above_leaf.roots, others),
            !above_leaf.roots.is_empty(),
        ),
    };
    if roots.is_empty() {
        return Err(VaultError::NoRoots);
    }
    chain.extend_from_slice(&above_leaf.issuers);
    let material =
        CertMaterial::from_der(chain, key.clone_key(), roots).map_err(VaultError::Material)?;
    Ok(Taken {
        material: if issue_leaf {
            material.roots_issue_leaf()
        } else {
            material
        },
        above_leaf,
        warning,
    })
}

/// Both, each once.
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

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, VaultError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_quotes_the_text| unusable("a certificate in it is not PEM"))
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, VaultError> {
    X509Certificate::from_der(der)
        .map(|(_rest, certificate)| certificate)
        .map_err(|_malformed| unusable("a certificate in it is malformed"))
}

/// Only certificates that name themselves as issuer: an intermediate is never taken for a root.
pub(crate) fn self_issued(
    issuers: &[CertificateDer<'static>],
) -> Result<Vec<CertificateDer<'static>>, VaultError> {
    let mut roots = Vec::new();
    for der in issuers {
        let certificate = parsed(der)?;
        if certificate.subject().as_raw() == certificate.issuer().as_raw() {
            roots.push(der.clone());
        }
    }
    Ok(roots)
}

/// When a certificate expires, if it can be read.
pub(crate) fn not_after(der: &CertificateDer<'_>) -> Option<SystemTime> {
    Some(time(parsed(der).ok()?.validity().not_after.timestamp()))
}

fn names_are_as_asked(leaf: &X509Certificate<'_>, request: &CertRequest) -> Result<(), VaultError> {
    let lacks = |kind, name: &dyn ToString| VaultError::Names {
        kind,
        name: name.to_string(),
    };
    if let Some(asked) = &request.common_name {
        let mut found = leaf.subject().iter_common_name();
        if !found.any(|name| name.as_str().is_ok_and(|name| name == asked)) {
            return Err(lacks("common name", asked));
        }
    }
    let extension = leaf
        .subject_alternative_name()
        .map_err(|_malformed| unusable("its certificate's names are malformed"))?;
    let found: &[GeneralName<'_>] = extension
        .as_ref()
        .map_or(&[], |extension| &extension.value.general_names);
    for asked in &request.dns {
        let is_it = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(dns) if dns.eq_ignore_ascii_case(asked));
        if !found.iter().any(is_it) {
            return Err(lacks("DNS name", asked));
        }
    }
    for asked in &request.ip {
        let is_it = |name: &GeneralName<'_>| matches!(name, GeneralName::IPAddress(bytes) if ip_address(bytes) == Some(*asked));
        if !found.iter().any(is_it) {
            return Err(lacks("IP address", asked));
        }
    }
    for asked in &request.uri {
        let is_it = |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if uri == asked);
        if !found.iter().any(is_it) {
            return Err(lacks("URI", asked));
        }
    }
    Ok(())
}

/// By the server's clock, so that ours plays no part; the core checks by ours.
fn life_is_as_asked(
    leaf: &X509Certificate<'_>,
    asked: &Asked<'_>,
) -> Result<Option<&'static str>, VaultError> {
    let not_after = time(leaf.validity().not_after.timestamp());
    let not_before = time(leaf.validity().not_before.timestamp());
    let begins = asked.server_now.unwrap_or(not_before);
    let got = not_after.duration_since(begins).unwrap_or_default();
    if got.is_zero() {
        return Err(VaultError::Expired);
    }
    match asked.ttl {
        Some(ttl) if got < ttl.mul_f64(SHORTEST_SHARE) => {
            return Err(VaultError::ShortLife { asked: ttl, got });
        }
        _ => {}
    }
    let skew = |theirs| skew::warning(asked.now, theirs, not_before, not_after);
    Ok(asked.server_now.and_then(skew))
}

/// What lies before 1970 is as good as 1970 here.
fn time(timestamp: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

fn unusable(problem: &'static str) -> VaultError {
    VaultError::Unusable {
        step: Step::Sign,
        problem,
    }
}
