use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::certificate::{Facts, Names, Serial};
use crate::material::{Anchoring, CertMaterial, Guard, MaterialError, Part};
use crate::schedule::UsableLife;
use crate::source::digest;
use crate::tls::{Anchors, Links, TlsPolicy};

/// Checked, numbered material with its ready TLS config; never changes.
///
/// Chain, key, roots and config all come from one fetch.
pub struct Snapshot {
    generation: u64,
    leaf_since: u64,
    serial: Serial,
    issuer: String,
    limited_by: Option<String>,
    names: Names,
    not_before: SystemTime,
    not_after: SystemTime,
    obtained_at: SystemTime,
    leaf_sha256: [u8; 32],
    material_digest: [u8; 32],
    upper_links: [u8; 32],
    anchors: Anchors,
    server_name: Option<ServerName<'static>>,
    warnings: Vec<String>,
    client_config: Arc<ClientConfig>,
    /// Held, not looked at.
    _guard: Option<Guard>,
}

impl Snapshot {
    /// Checks material and builds its config: the only way to a snapshot.
    ///
    /// `previous` numbers it, lends it the roots that are in their overlap, and spares it what was
    /// verified then: in most renewals the leaf alone is new.
    pub(crate) fn build(
        material: CertMaterial,
        previous: Option<&Self>,
        now: SystemTime,
        tls: &TlsPolicy,
    ) -> Result<Self, MaterialError> {
        let material_digest = material.digest();
        // Never ahead: a usable life must not begin later than now.
        let obtained_at = material.when_obtained().map_or(now, |at| at.min(now));
        let parts = material.into_parts();

        let (chain, facts) = presented_chain(parts.chain)?;
        let not_before = facts.iter().map(|f| f.not_before).max();
        let not_after = facts.iter().map(|f| f.not_after).min();
        let limited_by = limiting_issuer(&facts).map(str::to_owned);
        let (Some(not_before), Some(not_after), Some(leaf)) =
            (not_before, not_after, facts.into_iter().next())
        else {
            return Err(MaterialError::Missing { part: Part::Chain });
        };
        if !leaf.for_clients {
            return Err(MaterialError::NotForClients);
        }
        if now >= not_after {
            return Err(MaterialError::Expired {
                not_after,
                limited_by,
            });
        }
        if now < not_before {
            return Err(MaterialError::NotYetValid { not_before });
        }

        let leaf_sha256 = Sha256::digest(&chain[0]).into();
        let roots = Arc::new(root_store(&parts.roots)?);
        let upper_links = upper_links(&chain[1..], &parts.roots, parts.anchoring);
        // Names too: an issuer may be bound to some.
        let known = previous.is_some_and(|previous| {
            previous.upper_links == upper_links && previous.names == leaf.names
        });
        let links = if known { Links::First } else { Links::All };
        let certified = tls.certified_key(chain, parts.key)?;
        tls.verify_chain(
            &certified.cert,
            &roots,
            parts.anchoring,
            links,
            unix_time(now),
        )?;
        let anchors = Anchors::after(
            previous.map(|previous| &previous.anchors),
            parts.roots,
            now,
            tls.anchor_overlap(),
        );
        let client_config = tls
            .client_config(roots, &anchors, certified)
            .map_err(MaterialError::Chain)?;

        let generation = previous.map_or(1, |previous| previous.generation + 1);
        let same_leaf = previous.filter(|previous| previous.leaf_sha256 == leaf_sha256);
        Ok(Self {
            generation,
            leaf_since: same_leaf.map_or(generation, |previous| previous.leaf_since),
            serial: leaf.serial,
            issuer: leaf.issuer_name,
            limited_by,
            names: leaf.names,
            not_before,
            not_after,
            obtained_at,
            leaf_sha256,
            material_digest,
            upper_links,
            anchors,
            server_name: tls.server_name().cloned(),
            warnings: parts.warnings,
            client_config: Arc::new(client_config),
            _guard: parts.guard,
        })
    }

    /// The number of this snapshot: starts at 1 and grows by one with each rotation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation that this leaf came with: an earlier one if only roots have changed since.
    pub(crate) fn leaf_since(&self) -> u64 {
        self.leaf_since
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The distinguished name of the leaf's issuer, for people to read.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom the leaf names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// When the presented chain's validity begins, wall clock.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the first certificate of the presented chain expires, wall clock.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The issuer in the presented chain that expires first, if it is not the leaf that does.
    ///
    /// Its distinguished name, for people to read. One that expires together with the leaf counts:
    /// CAs cut the leaf's life short then. Only a newer issuer makes lives longer again.
    pub fn limited_by(&self) -> Option<&str> {
        self.limited_by.as_deref()
    }

    /// When the certificate was obtained from its CA, wall clock.
    ///
    /// What [`CertMaterial::obtained_at`] said; otherwise when this process fetched it.
    pub fn obtained_at(&self) -> SystemTime {
        self.obtained_at
    }

    /// Life left at `now`; zero once expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        crate::clock::remaining(now, self.not_after)
    }

    /// A digest of the leaf's DER.
    pub fn leaf_sha256(&self) -> &[u8; 32] {
        &self.leaf_sha256
    }

    /// The ready config for connecting as this certificate's subject.
    ///
    /// Made by the [`TlsSettings`](crate::TlsSettings) in force; by default TLS 1.3, the roots of
    /// the same fetch and nothing else trusted. A clone of the `Arc` is all that it costs.
    ///
    /// A session is resumed only by connections of the same generation. A clone of the config,
    /// say to set ALPN, belongs to its generation too; a new resolver or verifier does not.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client_config)
    }

    /// Whom servers are verified as, if [`TlsSettings::server_name`] says so.
    ///
    /// For connectors: given to rustls in place of the dialled host, it is sent as SNI too.
    ///
    /// [`TlsSettings::server_name`]: crate::TlsSettings::server_name
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// What the CA said beside the certificate, for people to read; most often nothing.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) fn usable_life(&self) -> UsableLife {
        UsableLife::new(self.obtained_at, self.not_before, self.not_after)
    }

    pub(crate) fn is_made_of(&self, material: &CertMaterial) -> bool {
        self.material_digest == material.digest()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("serial", &self.serial)
            .field("names", &self.names)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The chain as it goes on the wire: linked by name, without self-signed certificates.
///
/// OpenSSL peers refuse a self-signed certificate in a presented chain. It is dropped, and
/// never taken for a root.
fn presented_chain(
    chain: Vec<CertificateDer<'static>>,
) -> Result<(Vec<CertificateDer<'static>>, Vec<Facts>), MaterialError> {
    let mut presented = Vec::with_capacity(chain.len());
    let mut facts: Vec<Facts> = Vec::with_capacity(chain.len());
    for (index, der) in chain.into_iter().enumerate() {
        let read = Facts::read(&der).map_err(|problem| MaterialError::Certificate {
            part: Part::Chain,
            index,
            problem,
        })?;
        if index > 0 && read.is_self_issued() {
            continue;
        }
        if facts
            .last()
            .is_some_and(|above| above.issuer != read.subject)
        {
            return Err(MaterialError::BrokenLink { index: index - 1 });
        }
        presented.push(der);
        facts.push(read);
    }
    Ok((presented, facts))
}

fn limiting_issuer(facts: &[Facts]) -> Option<&str> {
    let leaf = facts.first()?;
    // Each names the next one, its issuer.
    let issuers = facts.windows(2);
    issuers
        .filter(|pair| pair[1].not_after <= leaf.not_after)
        .min_by_key(|pair| pair[1].not_after)
        .map(|pair| &*pair[0].issuer_name)
}

/// A digest over what the links above the leaf are made of; time is looked at anew each time.
fn upper_links(
    issuers: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    anchoring: Anchoring,
) -> [u8; 32] {
    let how = [u8::from(anchoring == Anchoring::RootsIssueLeaf)];
    let count = issuers.len().to_be_bytes();
    let certificates = issuers.iter().chain(roots).map(AsRef::as_ref);
    digest([&how[..], &count[..]].into_iter().chain(certificates))
}

fn root_store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, MaterialError> {
    let mut store = RootCertStore::empty();
    for (index, root) in roots.iter().enumerate() {
        store
            .add(root.clone())
            .map_err(|error| MaterialError::Certificate {
                part: Part::Roots,
                index,
                problem: error.to_string(),
            })?;
    }
    Ok(store)
}

fn unix_time(time: SystemTime) -> UnixTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or_default())
}

#[cfg(test)]
mod tests;
