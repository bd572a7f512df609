use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::clock::{Deadline, Moment, wall_after};
use crate::material::chain::{Delivered, Presented};
use crate::material::{CertMaterial, Certificate, MaterialError, Names, Serial, part};
use crate::schedule::UsableLifetime;
use crate::tls::{ClientAuth, Generation, TlsPolicy, TrustedRoots, public_key};

/// Checked, numbered material with its ready TLS config; never changes.
///
/// Chain, key, roots and config all come from one fetch.
pub struct Snapshot {
    generation: u64,
    leaf_since: u64,
    leaf: Certificate,
    limited_by: Option<String>,
    not_before: SystemTime,
    not_after: SystemTime,
    obtained_at: SystemTime,
    /// When this process received the leaf.
    received: Moment,
    /// Where the leaf's usable lifetime ends by our wall clock: before `not_after`, if that clock
    /// is behind.
    usable_until: SystemTime,
    /// The end of the validity.
    end: Deadline,
    leaf_sha256: [u8; 32],
    digest: [u8; 32],
    /// What this was built from. A source's guard lives in it for as long as this snapshot does.
    material: Arc<CertMaterial>,
    warnings: Vec<String>,
    trusted_roots: TrustedRoots,
    server_name: Option<ServerName<'static>>,
    tls: Arc<Generation>,
}

impl Snapshot {
    /// Checks material and builds its config: the only way to a snapshot.
    ///
    /// `previous` numbers it and lends it the roots that are in their overlap; `received` is when
    /// the material arrived. A chain that is not valid yet by our clock is accepted: that clock may
    /// be the wrong one.
    pub(crate) fn build(
        material: &Arc<CertMaterial>,
        previous: Option<&Self>,
        received: impl Into<Moment>,
        tls: &TlsPolicy,
    ) -> Result<Self, MaterialError> {
        let received = received.into();
        let now = received.wall;
        let key = tls.signing_key(material.key())?;
        let Presented {
            leaf,
            chains,
            not_before,
            not_after,
            limited_by,
            refused,
            mut warnings,
        } = Delivered {
            chain: material.chain(),
            roots: material.roots(),
            key: public_key(&*key).as_ref(),
            usage: tls.usage(),
            now,
            provider: tls.provider(),
        }
        .presented()?;
        let leaf_sha256 = Sha256::digest(&chains.first[0]).into();

        let (roots, store) = usable_roots(material.roots(), &mut warnings)?;
        let store = Arc::new(store);
        if roots.is_empty() && tls.needs_roots() {
            return Err(MaterialError::NoRoots);
        }
        if material.roots_must_issue_leaf() {
            tls.verify_chain(&chains.first, &leaf, &store, unix_time(now.max(not_before)))?;
        }
        let trusted_roots = TrustedRoots::after(
            previous.map(|previous| &previous.trusted_roots),
            roots,
            now,
            tls.roots_overlap(),
        );
        let generation_tls = tls.generation(store, &trusted_roots, chains, refused, &key)?;

        let generation = previous.map_or(1, |previous| previous.generation + 1);
        let same_leaf = previous.filter(|previous| previous.leaf_sha256 == leaf_sha256);
        // Other roots for the same leaf do not prolong it, whatever the wall clock shows by now.
        // Another issuer may.
        let same_end = same_leaf.filter(|previous| previous.not_after == not_after);
        let (received, usable_until, end) = match same_end {
            Some(previous) => (previous.received, previous.usable_until, previous.end),
            None => {
                let issuers_clock = material.when_issued().unwrap_or(now);
                let begins = issuers_clock.max(not_before);
                let usable = crate::clock::remaining(begins, not_after);
                (
                    received,
                    wall_after(now, usable).min(not_after),
                    Deadline::by_both(not_after, received, usable),
                )
            }
        };
        Ok(Self {
            generation,
            leaf_since: same_leaf.map_or(generation, |previous| previous.leaf_since),
            leaf,
            limited_by,
            not_before,
            not_after,
            // Never ahead: a usable lifetime must not begin later than now.
            obtained_at: match (material.when_obtained(), same_leaf) {
                (Some(at), _) => at.min(now),
                // Other roots for the same leaf do not move its renewal point.
                (None, Some(previous)) => previous.obtained_at,
                (None, None) => now,
            },
            received,
            usable_until,
            end,
            leaf_sha256,
            digest: material.digest(),
            warnings: all_warnings(material, warnings),
            material: Arc::clone(material),
            trusted_roots,
            server_name: tls.server_name().cloned(),
            tls: Arc::new(generation_tls),
        })
    }

    /// The number of this snapshot: starts at 1 and grows by one with each rotation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation in which this leaf first appeared: an earlier one if only roots have changed
    /// since.
    pub(crate) fn leaf_since(&self) -> u64 {
        self.leaf_since
    }

    /// The leaf, as it was read when this snapshot was built.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> &Serial {
        self.leaf.serial()
    }

    /// The distinguished name of the leaf's issuer, for people to read.
    pub fn issuer(&self) -> &str {
        self.leaf.issuer()
    }

    /// The names in the leaf.
    pub fn names(&self) -> &Names {
        self.leaf.names()
    }

    /// When the validity of the leaf and its path begins, wall clock.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the leaf expires, wall clock; sooner where every path to a root does.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The issuer that expires first, if it is not the leaf that does and no other path is left.
    ///
    /// Its distinguished name, for people to read. An issuer that expires together with the leaf
    /// counts too: a CA near its expiry shortens the leaf's lifetime to its own. Only a newer
    /// issuer makes lifetimes longer again. While another certificate of that issuer, or one by
    /// another root, is presented too, the expiry is one of the [`warnings`](Self::warnings).
    pub fn limited_by(&self) -> Option<&str> {
        self.limited_by.as_deref()
    }

    /// When the certificate was obtained from its CA, wall clock.
    ///
    /// The time given to [`CertMaterial::obtained_at`]; otherwise when this process fetched it.
    pub fn obtained_at(&self) -> SystemTime {
        self.obtained_at
    }

    /// The remaining lifetime at `now`; zero once expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        crate::clock::remaining(now, self.not_after)
    }

    /// A digest of the leaf's DER.
    pub fn leaf_sha256(&self) -> &[u8; 32] {
        &self.leaf_sha256
    }

    /// The ready config for connecting as this certificate's subject.
    ///
    /// Follows the [`TlsSettings`](crate::TlsSettings) in force; by default TLS 1.3, and only the
    /// roots of the same fetch are trusted. Costs a clone of an `Arc`.
    ///
    /// A handshake with a server that accepts no signature of the key fails: it never goes on without
    /// the certificate. A server that does not ask for one gets none.
    ///
    /// Only connections of the same generation resume its sessions. A clone of the config, for
    /// example to set ALPN, belongs to its generation too; a new resolver or verifier does not.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(self.tls.client_config())
    }

    /// A config for serving as this certificate's subject.
    ///
    /// Follows the [`TlsSettings`](crate::TlsSettings) in force: by default TLS 1.3. Clients are
    /// verified by the roots of the same fetch, and by earlier ones during
    /// [`roots_overlap`](crate::TlsSettings::roots_overlap). `alpn` lists the protocols that are
    /// offered, the preferred first; none for a protocol that has no name.
    ///
    /// Each call builds one, which costs little beside a handshake. Without client authentication,
    /// the configs of a generation resume each other's sessions, and none of another generation.
    /// With it they keep no session and issue no ticket: rustls verifies no certificate of a client
    /// that resumes, so that an expired one would be let in.
    ///
    /// For what decides per connection. A server that takes one config takes
    /// [`LiveCert::server_config`](crate::LiveCert::server_config).
    ///
    /// # Errors
    /// - [`MaterialError::NotServing`]: the certificate was started with [`Usage::Client`].
    /// - [`MaterialError::WrongUsage`], [`MaterialError::NoServerName`]: with [`Usage::Both`], the
    ///   leaf is for clients alone.
    /// - [`MaterialError::NoClientRoots`]: client authentication, but no roots were delivered.
    ///
    /// [`Usage::Client`]: crate::Usage::Client
    /// [`Usage::Both`]: crate::Usage::Both
    pub fn server_config(
        &self,
        auth: ClientAuth,
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, MaterialError> {
        self.tls.server_config(auth, alpn).map(Arc::new)
    }

    /// Whether a client that presents this chain would be let in at `now`.
    ///
    /// For servers that verify the peers of open connections again, as when a root has left. The
    /// chain is as the client presented it, its own certificate first.
    ///
    /// # Errors
    /// What a handshake would fail with. Without roots, or for a certificate that does not serve,
    /// it holds [`MaterialError::NoClientRoots`].
    pub fn verify_client(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), rustls::Error> {
        self.tls.verify_client(chain, unix_time(now))
    }

    /// What its handshakes present, and by what they verify peers.
    pub(crate) fn tls(&self) -> &Arc<Generation> {
        &self.tls
    }

    /// The name that servers are verified as, if [`TlsSettings::server_name`] sets one.
    ///
    /// For connectors: pass it to rustls instead of the dialled host, so that it is sent as SNI
    /// too.
    ///
    /// [`TlsSettings::server_name`]: crate::TlsSettings::server_name
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// Warnings about the certificate, for people to read; most often none.
    ///
    /// The CA's come first. The others are about what some servers accept and others refuse, such
    /// as a certificate of version 1 or one that is not a part of the chain; each names a subject.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The warnings without the CA's, which a source reports itself.
    pub(crate) fn own_warnings(&self) -> &[String] {
        &self.warnings[self.material.warnings().len()..]
    }

    /// Adds a warning if it is put to use before its validity begins by our wall clock.
    pub(crate) fn warn_if_not_yet_valid(mut self, now: SystemTime) -> Self {
        if now < self.not_before {
            // Without a figure, so that it is the same each time.
            let text = "the certificate is not valid yet by this machine's clock, which may be \
                        behind: check its time synchronisation";
            self.warnings.push(text.to_owned());
        }
        self
    }

    /// What this was built from.
    pub(crate) fn material(&self) -> &CertMaterial {
        &self.material
    }

    /// By our wall clock as it was when this process received the leaf.
    pub(crate) fn usable_lifetime(&self) -> UsableLifetime {
        let from = self
            .obtained_at
            .max(self.not_before.min(self.received.wall));
        UsableLifetime::new(from, from, self.usable_until)
    }

    /// The end of the validity, by both clocks.
    pub(crate) fn end(&self) -> Deadline {
        self.end
    }

    /// Whether the CA's clock, if it is known, said that the validity had begun.
    pub(crate) fn is_valid_by_its_issuers_clock(&self) -> bool {
        let issued = self.material.when_issued();
        issued.is_some_and(|issued| issued >= self.not_before)
    }

    /// A moment in the usable lifetime, by both clocks.
    pub(crate) fn deadline(&self, at: SystemTime) -> Deadline {
        self.received.deadline(at)
    }

    pub(crate) fn is_made_of(&self, material: &CertMaterial) -> bool {
        self.digest == material.digest()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("serial", self.serial())
            .field("names", self.names())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The CA's warnings, then ours with the file's name.
fn all_warnings(material: &CertMaterial, own: Vec<String>) -> Vec<String> {
    let named = own.into_iter().map(|warning| match material.origin() {
        Some(origin) => format!("{origin}: {warning}"),
        None => warning,
    });
    material.warnings().iter().cloned().chain(named).collect()
}

/// The roots that rustls can use; one that it cannot is a warning while there are others.
fn usable_roots(
    roots: &[CertificateDer<'static>],
    warnings: &mut Vec<String>,
) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), MaterialError> {
    let mut usable = Vec::with_capacity(roots.len());
    let mut store = RootCertStore::empty();
    let mut refused = None;
    for (index, root) in roots.iter().enumerate() {
        match store.add(root.clone()) {
            Ok(()) => usable.push(root.clone()),
            Err(error) => {
                let subject = Certificate::in_part(part::ROOTS, index, root)?.shown();
                warnings.push(format!(
                    "{subject} cannot be a root and is left out: {error}"
                ));
                refused = Some((index, error));
            }
        }
    }
    match refused {
        Some((index, error)) if usable.is_empty() => Err(MaterialError::Certificate {
            part: part::ROOTS,
            index,
            problem: error.to_string(),
        }),
        _ => Ok((usable, store)),
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or_default())
}

#[cfg(feature = "export")]
mod export;
#[cfg(feature = "export")]
pub use export::Exported;
#[cfg(test)]
mod tests;
