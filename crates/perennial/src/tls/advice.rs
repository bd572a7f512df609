//! Why a server's certificate was refused, where its form is at fault, and how to make a right one.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::material::{Certificate, Form, folded_der};

/// A server's certificate as it was presented, and what it was verified with.
pub(super) struct ServerChain<'a> {
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    pub(super) name: &'a ServerName<'a>,
    pub(super) roots: &'a RootCertStore,
}

/// The settings that may accept the certificate as it is.
#[derive(Clone, Copy)]
pub(super) enum WayPast {
    /// `TlsSettings`.
    Settings,
    /// The caller of [`explaining_verifier`] has its own.
    Unknown,
}

/// What [`server_certificate_advice`] returns; inside the [`Error`] that it explains.
struct FormFault {
    text: String,
    cause: Error,
}

/// The text alone: rustls prints a cause of another crate by its `Debug`.
impl fmt::Debug for FormFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for FormFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for FormFault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

/// What is wrong with the form of a server's certificate, and how to make a right one.
///
/// For connectors that put their own words around a TLS error: the error's own text says it too.
/// `None` if the error is not about a certificate's form.
///
/// # Example
/// ```
/// use perennial::rustls::Error;
/// use perennial::{find_cause, server_certificate_advice};
///
/// fn explain(error: &(dyn std::error::Error + 'static)) -> String {
///     let advice = find_cause::<Error>(error).and_then(server_certificate_advice);
///     advice.unwrap_or("the server is not trusted").to_owned()
/// }
/// # assert_eq!(explain(&std::io::Error::other("reset")), "the server is not trusted");
/// ```
pub fn server_certificate_advice(error: &Error) -> Option<&str> {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
        return None;
    };
    let fault: &FormFault = cause.downcast_ref()?;
    Some(&fault.text)
}

/// Wraps a verifier so that its errors name what is wrong with the form of a server's certificate.
///
/// It accepts and refuses what `verifier` does. `roots` are those that it trusts, or an empty store
/// if they are not known. The verifiers of [`LiveCert`](crate::LiveCert) do this already.
pub fn explaining_verifier(
    verifier: Arc<dyn ServerCertVerifier>,
    roots: Arc<RootCertStore>,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Explaining { verifier, roots })
}

/// The error, with the fault in the certificate's form if there is one.
pub(super) fn explained(error: Error, presented: &ServerChain<'_>, way_past: WayPast) -> Error {
    let Error::InvalidCertificate(reason) = &error else {
        return error;
    };
    let Some(fault) = presented.fault(reason) else {
        return error;
    };
    let fault = FormFault {
        text: fault.text(presented.name, way_past),
        cause: error,
    };
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

/// The certificate at fault, and its fault.
struct Fault {
    subject: String,
    kind: Kind,
}

enum Kind {
    Version(u32),
    CriticalExtension(String),
    CaAsServer,
    NotCa,
    /// Issuer and subject are one name in two encodings.
    IssuerEncoding,
    UnknownAlgorithm,
    NoAlternativeNames,
    /// The name that was dialled is an address that the certificate has as a DNS name.
    AddressAsDnsName,
}

impl ServerChain<'_> {
    fn fault(&self, reason: &CertificateError) -> Option<Fault> {
        let (certificate, form) = Certificate::with_form(self.end_entity).ok()?;
        let server = |kind| {
            Some(Fault {
                subject: certificate.shown(),
                kind,
            })
        };
        #[expect(deprecated, reason = "rustls still returns it")]
        match reason {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let dialled = self.name.to_str();
                let names = certificate.names();
                let is_address = matches!(self.name, ServerName::IpAddress(_));
                if is_address && names.dns.iter().any(|name| *name == dialled) {
                    server(Kind::AddressAsDnsName)
                } else if !form.has_alternative_names {
                    server(Kind::NoAlternativeNames)
                } else {
                    None
                }
            }
            CertificateError::UnknownIssuer => self.other_encoding(),
            CertificateError::UnsupportedSignatureAlgorithm
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                server(Kind::UnknownAlgorithm)
            }
            CertificateError::Other(_) | CertificateError::BadEncoding => {
                let own = unreadable(&form).or_else(|| form.is_ca.then_some(Kind::CaAsServer));
                own.map_or_else(|| self.intermediate(&certificate), server)
            }
            _ => None,
        }
    }

    /// A certificate whose issuer is presented or trusted under another encoding of its name.
    fn other_encoding(&self) -> Option<Fault> {
        let chain = [self.end_entity].into_iter().chain(self.intermediates);
        let chain = chain.filter_map(|der| Certificate::with_form(der).ok());
        let chain: Vec<_> = chain.collect();
        let subjects: Vec<Vec<u8>> = chain.iter().map(|(_, form)| form.subject.clone()).collect();
        let trusted: Vec<Vec<u8>> = self.roots.subjects().iter().map(in_bytes).collect();
        chain
            .into_iter()
            .find_map(|(certificate, Form { issuer, .. })| {
                let folded = folded_der(&issuer)?;
                let is_other = |names: &Vec<Vec<u8>>| {
                    !names.contains(&issuer)
                        && names
                            .iter()
                            .any(|name| folded_der(name).as_ref() == Some(&folded))
                };
                // A server may present its own root, under the name that its certificate has.
                let is_at_fault = is_other(&trusted) || is_other(&subjects);
                (is_at_fault && !trusted.contains(&issuer)).then(|| Fault {
                    subject: certificate.shown(),
                    kind: Kind::IssuerEncoding,
                })
            })
    }

    /// An intermediate that cannot be one.
    fn intermediate(&self, server: &Certificate) -> Option<Fault> {
        self.intermediates.iter().find_map(|der| {
            let (certificate, form) = Certificate::with_form(der).ok()?;
            let is_issuer = server.names_issuer(&certificate);
            let not_ca = (is_issuer && !form.is_ca).then_some(Kind::NotCa);
            Some(Fault {
                subject: certificate.shown(),
                kind: unreadable(&form).or(not_ca)?,
            })
        })
    }
}

fn in_bytes(name: &DistinguishedName) -> Vec<u8> {
    name.as_ref().to_vec()
}

/// Why rustls does not read a certificate that others read.
fn unreadable(form: &Form) -> Option<Kind> {
    if form.version < 3 {
        return Some(Kind::Version(form.version));
    }
    let first = form.unknown_critical.first()?;
    Some(Kind::CriticalExtension(first.clone()))
}

impl Fault {
    /// The fault and the remedy in one line.
    fn text(&self, name: &ServerName<'_>, way_past: WayPast) -> String {
        let name = name.to_str();
        let kind = match name.parse::<std::net::IpAddr>() {
            Ok(_) => "IP",
            Err(_) => "DNS",
        };
        let san = format!("subjectAltName={kind}:{name}");
        let (fault, remedy) = match &self.kind {
            Kind::Version(version) => (
                format!("is an X.509 version {version} certificate, which TLS libraries refuse for servers"),
                format!("issue it with extensions, which make it version 3: openssl x509 -req .. -extfile FILE with the line {san}"),
            ),
            Kind::CriticalExtension(extension) => (
                format!("has the critical extension {extension}, which rustls does not process"),
                "issue it without that extension, or not as critical".to_owned(),
            ),
            Kind::CaAsServer => (
                "is a CA's certificate (CA:TRUE, as openssl req -x509 makes them), not a server's".to_owned(),
                format!("openssl req -x509 .. -addext basicConstraints=critical,CA:FALSE -addext {san}"),
            ),
            Kind::NotCa => (
                "issued the server's certificate but is not a CA's (no CA:TRUE)".to_owned(),
                "issue it with basicConstraints=critical,CA:TRUE".to_owned(),
            ),
            Kind::IssuerEncoding => (
                "names its issuer in another encoding than the issuer's own certificate does, and rustls compares names byte by byte".to_owned(),
                "issue one of them again, with the same string_mask in openssl.cnf for both".to_owned(),
            ),
            Kind::UnknownAlgorithm => (
                "has a chain with a kind of key or signature that the crypto provider does not verify".to_owned(),
                "issue the chain with ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits with SHA-256".to_owned(),
            ),
            Kind::NoAlternativeNames => (
                format!("has no subjectAltName, and its common name does not count: it is valid for no host, and so not for {name}"),
                format!("issue it with {san}"),
            ),
            Kind::AddressAsDnsName => (
                format!("has the address {name} as a DNS name"),
                format!("issue it with {san}"),
            ),
        };
        let past = match (way_past, &self.kind) {
            (WayPast::Unknown, _) => "",
            (WayPast::Settings, Kind::NoAlternativeNames | Kind::AddressAsDnsName) => {
                "; TlsSettings::verify_ca goes without the name, or set server_verifier"
            }
            (WayPast::Settings, Kind::CaAsServer) => {
                "; TlsSettings::verify_ca accepts it if it is a root itself, or set server_verifier"
            }
            (WayPast::Settings, _) => "; or set TlsSettings::server_verifier",
        };
        format!(
            "the form of the certificate {} is at fault: it {fault} ({remedy}{past})",
            self.subject
        )
    }
}

#[derive(Debug)]
struct Explaining {
    verifier: Arc<dyn ServerCertVerifier>,
    roots: Arc<RootCertStore>,
}

impl ServerCertVerifier for Explaining {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier
            .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
            .map_err(|error| {
                let presented = ServerChain {
                    end_entity,
                    intermediates,
                    name,
                    roots: &self.roots,
                };
                explained(error, &presented, WayPast::Unknown)
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.verifier.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests;
