//! What kind of failure a connect met, told from the driver's error. Pure.

use std::error::Error;
use std::fmt;
use std::io;

use perennial::rustls::{self, AlertDescription};
use perennial::{Unavailable, find_cause};
use tokio_postgres::error::SqlState;

/// What kind of failure a connect met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// There was no certificate to connect with.
    NoCertificate,
    /// Name lookup or TCP failed, or no host of the list is of the wanted kind.
    Unreachable,
    /// The server answered that it speaks no TLS; or it is not Postgres.
    NoTls,
    /// The TLS handshake failed over something other than a certificate.
    Handshake,
    /// We do not trust the server's certificate.
    ServerNotTrusted,
    /// The server refused our certificate, by a TLS alert or with SQLSTATE 28000.
    CertificateRefused,
    /// The server is starting, stopping, or has no connection left to give.
    NotNow,
    /// The server refused the login for another reason, such as a database that is not there.
    LoginRefused,
    /// The connection was cut on the way.
    Lost,
    /// It took too long.
    TimedOut,
    /// The hook that prepares each connection failed.
    OnConnect,
    /// The pool is being drained.
    Draining,
    /// A pooled connection was found closed, or its certificate expired.
    Ended,
}

impl FailureClass {
    /// The name that metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Unreachable => "unreachable",
            Self::NoTls => "no_tls",
            Self::Handshake => "handshake",
            Self::ServerNotTrusted => "server_not_trusted",
            Self::CertificateRefused => "certificate_refused",
            Self::NotNow => "not_now",
            Self::LoginRefused => "login_refused",
            Self::Lost => "lost",
            Self::TimedOut => "timed_out",
            Self::OnConnect => "on_connect",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }

    /// What happened, and what to do about it.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "postgres cannot be reached; check host and port, and that it runs"
            }
            Self::NoTls => {
                "the server speaks no TLS; check host and port, and `ssl = on` in postgresql.conf"
            }
            Self::Handshake => {
                "the TLS handshake failed; check that it is postgres, and the TLS versions of both sides"
            }
            Self::ServerNotTrusted => {
                "the server's certificate is not trusted; it must name the host, and its CA must be among the source's roots"
            }
            Self::CertificateRefused => {
                "postgres refused the certificate; check pg_hba.conf, pg_ident.conf, ssl_ca_file and ssl_crl_file there"
            }
            Self::NotNow => {
                "postgres takes no connection now; it is starting, stopping, or max_connections is reached"
            }
            Self::LoginRefused => "postgres refused the login; check user and database",
            Self::Lost => "the connection was cut during login; see postgres' log",
            Self::NoCertificate => "there is no valid certificate to connect with",
            Self::TimedOut | Self::OnConnect | Self::Draining | Self::Ended => self.as_str(),
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the driver's error is about.
///
/// In TLS 1.2 a refused certificate ends the handshake; in TLS 1.3 it shows on the first read
/// after it. The alert is the same, and stands at different depths of the error.
pub(crate) fn classify(error: &tokio_postgres::Error) -> FailureClass {
    if let Some(code) = error.code() {
        return by_sqlstate(code);
    }
    if let Some(tls) = find_cause(error) {
        return by_tls_error(tls);
    }
    if find_cause::<Unavailable>(error).is_some() {
        // It expired while the network was slow.
        return FailureClass::NoCertificate;
    }
    let text = error.to_string();
    let cause = error.source();
    if cause.is_some_and(|cause| cause.to_string() == NO_TLS) {
        FailureClass::NoTls
    } else if text == UNREACHABLE {
        FailureClass::Unreachable
    } else if error.is_closed() || text == LOST {
        FailureClass::Lost
    } else if text == HANDSHAKE {
        match cause {
            Some(cause) if cause.is::<io::Error>() => FailureClass::Lost,
            _ => FailureClass::Handshake,
        }
    } else {
        FailureClass::LoginRefused
    }
}

// tokio-postgres shows the kind of an error in its text alone; tests on real servers pin these.
const NO_TLS: &str = "server does not support TLS";
const UNREACHABLE: &str = "error connecting to server";
const LOST: &str = "error communicating with the server";
const HANDSHAKE: &str = "error performing TLS handshake";

fn by_sqlstate(code: &SqlState) -> FailureClass {
    let not_now = [
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
    ];
    if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        FailureClass::CertificateRefused
    } else if not_now.contains(code) {
        FailureClass::NotNow
    } else {
        FailureClass::LoginRefused
    }
}

fn by_tls_error(error: &rustls::Error) -> FailureClass {
    use AlertDescription as Alert;
    match error {
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
            // A CA that has a new key under its old name: the signature does not fit.
            | Alert::DecryptError,
        ) => FailureClass::CertificateRefused,
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::InvalidCertRevocationList(_)
        | rustls::Error::NoCertificatesPresented => FailureClass::ServerNotTrusted,
        _ => FailureClass::Handshake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_about_our_certificate_are_refusals_and_no_others() {
        let refused = [
            AlertDescription::BadCertificate,
            AlertDescription::CertificateExpired,
            AlertDescription::CertificateRevoked,
            AlertDescription::UnknownCA,
            AlertDescription::CertificateRequired,
            AlertDescription::DecryptError,
        ];
        for alert in refused {
            let class = by_tls_error(&rustls::Error::AlertReceived(alert));
            assert_eq!(class, FailureClass::CertificateRefused, "{alert:?}");
        }
        for alert in [
            AlertDescription::ProtocolVersion,
            AlertDescription::InternalError,
        ] {
            let class = by_tls_error(&rustls::Error::AlertReceived(alert));
            assert_eq!(class, FailureClass::Handshake, "{alert:?}");
        }
        let unknown = rustls::CertificateError::UnknownIssuer;
        let class = by_tls_error(&rustls::Error::InvalidCertificate(unknown));
        assert_eq!(class, FailureClass::ServerNotTrusted);
    }

    #[test]
    fn sqlstates_tell_a_refused_certificate_from_a_busy_server() {
        let table = [
            ("28000", FailureClass::CertificateRefused),
            ("53300", FailureClass::NotNow),
            ("57P03", FailureClass::NotNow),
            ("57P01", FailureClass::NotNow),
            ("28P01", FailureClass::LoginRefused),
            ("3D000", FailureClass::LoginRefused),
        ];
        for (code, class) in table {
            assert_eq!(by_sqlstate(&SqlState::from_code(code)), class, "{code}");
        }
    }
}
