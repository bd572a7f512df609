use std::error::Error;
use std::sync::Arc;

use perennial::{explaining_verifier, find_cause, server_certificate_advice};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

/// The TLS settings towards Vault; `roots`, if given, replace the platform's.
pub(crate) fn client_config(
    provider: Arc<CryptoProvider>,
    roots: Option<RootCertStore>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let (verifier, roots): (Arc<dyn ServerCertVerifier>, _) = match roots.map(Arc::new) {
        Some(roots) => {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider);
            let verifier = verifier.build();
            let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
            (verifier, roots)
        }
        None => (
            Arc::new(Verifier::new(provider)?),
            Arc::new(RootCertStore::empty()),
        ),
    };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(explaining_verifier(verifier, roots))
        .with_no_client_auth())
}

/// The provider of the enabled feature; aws-lc-rs where both are.
///
/// Both wipe the bytes that they load a key from.
pub(crate) fn default_provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(not(feature = "aws-lc-rs"))]
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The TLS error within `error`, if waiting alone cannot cure it.
pub(super) fn lasting_error(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    find_cause(error).filter(|error| lasts(error)).cloned()
}

/// What an operator can do about such an error.
pub(super) fn remedy(error: &rustls::Error) -> &'static str {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "another CA issued its certificate: set ca_pem to that CA"
        }
        rustls::Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        ) => "its certificate is for other hosts: correct the address or the certificate",
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired: renew it, or correct this machine's clock"
        }
        // The cause says which, and how to make a right one.
        error if server_certificate_advice(error).is_some() => {
            "the form of its certificate is at fault"
        }
        rustls::Error::InvalidMessage(_) => "this port does not speak TLS: correct the address",
        _ => "see the log of vault",
    }
}

fn lasts(error: &rustls::Error) -> bool {
    match error {
        // The clocks differ a little: waiting makes the certificate valid.
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => false,
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::PeerIncompatible(_)
        // Not TLS at all, such as plain HTTP.
        | rustls::Error::InvalidMessage(_) => true,
        rustls::Error::AlertReceived(alert) => !matches!(
            alert,
            AlertDescription::CloseNotify
                | AlertDescription::InternalError
                | AlertDescription::UserCanceled
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn tls_error_is_found_within_io_errors() {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, unknown.clone()));
        assert_eq!(lasting_error(&wrapped), Some(unknown));

        let early = rustls::Error::InvalidCertificate(CertificateError::NotValidYet);
        assert_eq!(lasting_error(&io::Error::other(early)), None);
        assert_eq!(lasting_error(&io::Error::other("reset")), None);
    }
}
