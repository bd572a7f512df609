//! What stands above the leaf: most renewals bring what is known, and it is not read again.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::material::{Anchoring, CertMaterial, Certificate, MaterialError, part};
use crate::source::digest;

/// The issuers that a chain presents above its leaf, and the roots that came with them.
pub(super) struct Upper {
    /// Over all that it was read from.
    digest: [u8; 32],
    /// The leaf's own issuer first.
    pub(super) issuers: Vec<CertificateDer<'static>>,
    /// Of each of them.
    pub(super) facts: Vec<Certificate>,
    pub(super) roots: Arc<RootCertStore>,
}

impl Upper {
    /// What is known already, if the material brings just that.
    pub(super) fn of(
        material: &CertMaterial,
        known: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, MaterialError> {
        let digest = digest_of(material);
        if let Some(known) = known.filter(|known| known.digest == digest) {
            return Ok(Arc::clone(known));
        }
        let (issuers, facts) = presented(material.chain())?;
        Ok(Arc::new(Self {
            digest,
            issuers,
            facts,
            roots: Arc::new(root_store(material.roots())?),
        }))
    }
}

/// Over what the links above the leaf are made of; time is looked at anew each time.
fn digest_of(material: &CertMaterial) -> [u8; 32] {
    let issuers = &material.chain()[1..];
    let how = [u8::from(material.anchoring() == Anchoring::RootsIssueLeaf)];
    let count = issuers.len().to_be_bytes();
    let certificates = issuers.iter().chain(material.roots()).map(AsRef::as_ref);
    digest([&how[..], &count[..]].into_iter().chain(certificates))
}

/// The issuers as they go on the wire: linked by name, without self-signed certificates.
///
/// OpenSSL peers refuse a self-signed certificate in a presented chain. It is dropped, and
/// never taken for a root.
pub(super) fn presented(
    chain: &[CertificateDer<'static>],
) -> Result<(Vec<CertificateDer<'static>>, Vec<Certificate>), MaterialError> {
    let mut issuers = Vec::with_capacity(chain.len());
    let mut facts: Vec<Certificate> = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate().skip(1) {
        let read = Certificate::in_part(part::CHAIN, index, der)?;
        if read.is_self_issued() {
            continue;
        }
        if facts.last().is_some_and(|below| !below.names_issuer(&read)) {
            return Err(MaterialError::BrokenLink { index: index - 1 });
        }
        issuers.push(der.clone());
        facts.push(read);
    }
    Ok((issuers, facts))
}

fn root_store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, MaterialError> {
    let mut store = RootCertStore::empty();
    for (index, root) in roots.iter().enumerate() {
        store
            .add(root.clone())
            .map_err(|error| MaterialError::Certificate {
                part: part::ROOTS,
                index,
                problem: error.to_string(),
            })?;
    }
    Ok(store)
}
