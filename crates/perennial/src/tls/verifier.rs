use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::advice::{ServerChain, WayPast, explained};
use super::other_error;
use super::roots::TrustedRoots;
use super::settings::{ServerTrust, Verification};
use super::stages::{Stages, system_time};
use crate::material::{Certificate, MaterialError};

/// Verifies the servers of one generation.
///
/// Each generation has its own: rustls resumes no session across two of them.
pub(super) struct ServerVerifier {
    stages: Stages<Stage>,
    trust: Arc<ServerTrust>,
    provider: Arc<CryptoProvider>,
}

/// The roots that are trusted, and the verifier, if it is not webpki's.
struct Stage {
    roots: Arc<RootCertStore>,
    other: Option<Arc<dyn ServerCertVerifier>>,
}

impl ServerVerifier {
    /// `delivered` are the delivered roots of `trusted`, parsed.
    pub(super) fn new(
        trust: &Arc<ServerTrust>,
        delivered: Arc<RootCertStore>,
        trusted: &TrustedRoots,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let lasting = trust.fixed_roots.clone().unwrap_or(delivered);
        let make = |roots| trust.stage(roots, provider);
        Ok(Self {
            stages: Stages::new(lasting, trusted, trust.overlap, make)?,
            trust: Arc::clone(trust),
            provider: Arc::clone(provider),
        })
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }

    /// What is the same at each stage.
    fn other(&self) -> Option<&dyn ServerCertVerifier> {
        self.stages.lasting().other.as_deref()
    }
}

impl ServerTrust {
    fn stage(
        &self,
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Stage, Error> {
        let other = match &self.verification {
            Verification::Own(make) => Some(make(Arc::clone(&roots), provider)?),
            Verification::System(verifier) => Some(Arc::clone(verifier)),
            Verification::ChainAndName | Verification::Chain => None,
        };
        Ok(Stage { roots, other })
    }
}

/// As rustls' own verifier does; without a name, as libpq's `verify-ca` does.
fn verify(
    presented: &ServerChain<'_>,
    name: Option<&ServerName<'_>>,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let end_entity = ParsedCertificate::try_from(presented.end_entity)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(
        &end_entity,
        presented.roots,
        presented.intermediates,
        now,
        algorithms,
    )?;
    name.map_or(Ok(()), |name| verify_server_name(&end_entity, name))
}

/// Whether a valid server's certificate is a root itself: the same name and key.
///
/// webpki refuses such a certificate if it is a CA's, as `openssl req -x509` makes them. The server
/// proves in the handshake that it has the root's key, with which it could issue itself any other
/// certificate: to accept this one trusts it no further than the root is trusted.
fn is_root(end_entity: &CertificateDer<'_>, roots: &RootCertStore, now: UnixTime) -> bool {
    let Ok((certificate, form)) = Certificate::with_form(end_entity) else {
        return false;
    };
    let now = system_time(now);
    let is_valid = certificate.not_before() <= now && now < certificate.not_after();
    let subjects = roots.subjects();
    let mut anchors = roots.roots.iter().zip(&subjects);
    is_valid
        && certificate.allows_servers()
        && anchors.any(|(anchor, subject)| {
            subject.as_ref() == form.subject && form.is_key(anchor.subject_public_key_info.as_ref())
        })
}

/// Only the roots depend on the clock; the rest is the same at each stage.
impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let make = |roots| self.trust.stage(roots, &self.provider);
        let Stage { roots, other } = self.stages.at(now, make)?;
        if roots.is_empty() && other.is_none() {
            return Err(other_error(MaterialError::NoRoots));
        }
        let name = self.trust.name.as_ref().unwrap_or(dialled);
        let presented = ServerChain {
            end_entity,
            intermediates,
            name,
            roots,
        };
        let verified = match (&self.trust.verification, other) {
            // Its maker knows what it refuses.
            (Verification::Own(_), Some(own)) => {
                return own.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
            }
            (_, Some(system)) => system
                .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
                .map(|_| ()),
            (Verification::Chain, None) => match verify(&presented, None, now, &self.provider) {
                Err(_) if is_root(end_entity, roots, now) => Ok(()),
                verified => verified,
            },
            (_, None) => verify(&presented, Some(name), now, &self.provider),
        };
        verified
            .map(|()| ServerCertVerified::assertion())
            .map_err(|error| explained(error, &presented, WayPast::Settings))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.other() {
            Some(other) => other.verify_tls12_signature(message, cert, signed),
            None => verify_tls12_signature(message, cert, signed, self.algorithms()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.other() {
            Some(other) => other.verify_tls13_signature(message, cert, signed),
            None => verify_tls13_signature(message, cert, signed, self.algorithms()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.other() {
            Some(other) => other.supported_verify_schemes(),
            None => self.algorithms().supported_schemes(),
        }
    }

    fn requires_raw_public_keys(&self) -> bool {
        let other = self.other();
        other.is_some_and(ServerCertVerifier::requires_raw_public_keys)
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.other()?.root_hint_subjects()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::CertificateError;

    use super::*;
    use crate::TlsSettings;
    use crate::testing::{MINUTE, noon};

    const HOST: &str = "db.test";

    /// A CA's root, and a server's certificate by it.
    struct Server {
        root: CertificateDer<'static>,
        leaf: CertificateDer<'static>,
    }

    /// All CAs have the same name, like a CA whose key was replaced.
    fn server() -> Server {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = CertificateParams::new([HOST.to_owned()])
            .unwrap()
            .signed_by(&KeyPair::generate().unwrap(), &ca)
            .unwrap();
        Server {
            root: ca.der().clone(),
            leaf: leaf.der().clone(),
        }
    }

    #[test]
    fn each_old_root_is_trusted_until_its_own_overlap_ends() {
        // C9: the roots go A+B, B+C at minute 5, D at minute 6.
        let overlap = 10 * MINUTE;
        let [a, b, c, d] = [(); 4].map(|()| server());
        let mut trusted = None;
        for (minute, delivered) in [(0, vec![&a, &b]), (5, vec![&b, &c]), (6, vec![&d])] {
            let roots = delivered.iter().map(|server| server.root.clone()).collect();
            let now = noon() + minute * MINUTE;
            trusted = Some(TrustedRoots::after(trusted.as_ref(), roots, now, overlap));
        }

        let provider = crate::tls::default_provider().unwrap();
        let trust = TlsSettings::new()
            .roots_overlap(overlap)
            .read(&provider)
            .unwrap();
        let trust = Arc::new(trust);
        let mut delivered = RootCertStore::empty();
        delivered.add(d.root.clone()).unwrap();
        let delivered = Arc::new(delivered);
        let trusted = trusted.unwrap();
        let verifier = ServerVerifier::new(&trust, delivered, &trusted, &provider).unwrap();
        let is_trusted = |server: &Server, moment: SystemTime| {
            let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let name = ServerName::try_from(HOST).unwrap();
            let now = UnixTime::since_unix_epoch(since);
            match verifier.verify_server_cert(&server.leaf, &[], &name, &[], now) {
                Ok(_) => true,
                Err(Error::InvalidCertificate(
                    CertificateError::BadSignature | CertificateError::UnknownIssuer,
                )) => false,
                Err(other) => panic!("{other}"),
            }
        };
        let second = Duration::from_secs(1);
        for (moment, expected) in [
            (noon() + 6 * MINUTE, [true, true, true, true]),
            (noon() + 15 * MINUTE - second, [true, true, true, true]),
            (noon() + 15 * MINUTE, [false, true, true, true]),
            (noon() + 16 * MINUTE - second, [false, true, true, true]),
            (noon() + 16 * MINUTE, [false, false, false, true]),
            (noon() + 99 * MINUTE, [false, false, false, true]),
        ] {
            let found = [&a, &b, &c, &d].map(|server| is_trusted(server, moment));
            assert_eq!(found, expected, "{moment:?}");
        }
    }
}
