use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::anchors::in_overlap;

/// Verifies the servers of one generation.
///
/// Each generation has one of its own: rustls resumes no session across two of them.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    /// Trusts the roots that stay.
    pub(crate) lasting: Arc<WebPkiServerVerifier>,
    /// The most trusting first; over one after the other.
    pub(crate) overlaps: Vec<Overlap>,
    pub(crate) overlap: Duration,
    /// Whom the server must be, whatever name was dialled.
    pub(crate) name: Option<ServerName<'static>>,
}

/// Trusts also the roots that are missing since then or later.
#[derive(Debug)]
pub(crate) struct Overlap {
    pub(crate) missing_since: SystemTime,
    pub(crate) verifier: Arc<WebPkiServerVerifier>,
}

impl ServerVerifier {
    /// The overlap ends by the clock, and need not wait for a rotation.
    fn at(&self, now: UnixTime) -> &WebPkiServerVerifier {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.overlaps
            .iter()
            .find(|stage| in_overlap(stage.missing_since, now, self.overlap))
            .map_or(&self.lasting, |stage| &stage.verifier)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = self.name.as_ref().unwrap_or(dialled);
        self.at(now)
            .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.lasting.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.lasting.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.lasting.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::{CertificateError, RootCertStore};

    use super::*;
    use crate::TlsSettings;
    use crate::testing::{MINUTE, noon};
    use crate::tls::anchors::Anchors;
    use crate::tls::trust::ServerTrust;

    const HOST: &str = "db.test";

    /// A CA's root, and a server's certificate by it.
    struct Server {
        root: CertificateDer<'static>,
        leaf: CertificateDer<'static>,
    }

    /// All CAs bear the same name, as one does whose key was replaced.
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
    fn each_old_root_falls_away_at_its_own_time() {
        // C9: the roots go A+B, B+C at minute 5, D at minute 6.
        let overlap = 10 * MINUTE;
        let [a, b, c, d] = [(); 4].map(|()| server());
        let mut anchors = None;
        for (minute, delivered) in [(0, vec![&a, &b]), (5, vec![&b, &c]), (6, vec![&d])] {
            let roots = delivered.iter().map(|server| server.root.clone()).collect();
            let now = noon() + minute * MINUTE;
            anchors = Some(Anchors::after(anchors.as_ref(), roots, now, overlap));
        }

        let provider = crate::tls::default_provider().unwrap();
        let settings = TlsSettings::new().anchor_overlap(overlap);
        let mut delivered = RootCertStore::empty();
        delivered.add(d.root.clone()).unwrap();
        let verifier = ServerTrust::read(settings, &provider)
            .unwrap()
            .verifier(Arc::new(delivered), &anchors.unwrap(), &provider)
            .unwrap();
        let trusted = |server: &Server, moment: SystemTime| {
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
            let found = [&a, &b, &c, &d].map(|server| trusted(server, moment));
            assert_eq!(found, expected, "{moment:?}");
        }
    }
}
