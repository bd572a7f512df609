//! Why there is no connection: the error, its class, and how the driver's error gets one.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial::rustls::{self, AlertDescription, PeerIncompatible};
use perennial::{RenewError, Unavailable, find_cause, server_certificate_advice};
use tokio_postgres::error::SqlState;

/// Why there is no connection, or why a connection must not be used.
///
/// [`perennial::with_causes`] writes it and its causes in one line.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting cannot be used; returned at build.
    #[error("invalid {field} {got}: expected {expected}")]
    Setting {
        /// The setter's name, or the name in the connection string.
        field: &'static str,
        /// The value it got.
        got: String,
        /// The values it takes.
        expected: &'static str,
    },
    /// There is no certificate to connect with.
    #[error("no certificate to connect with")]
    Certificate(#[source] Unavailable),
    /// TCP, TLS or login failed; the cause is the driver's error.
    ///
    /// Of several hosts and addresses this is the failure that says most about the certificate: a
    /// refusal, then a server that is not trusted, then any other.
    #[error(
        "{} ({server}, certificate of generation {generation}{})",
        advice(*class, cause), Others(others)
    )]
    Postgres {
        /// What kind of failure this is.
        class: FailureClass,
        /// Host and port, and the address that was dialled if it is another.
        server: String,
        /// The generation of the certificate that was presented.
        generation: u64,
        /// Why the other hosts and addresses failed, each with its name.
        others: Vec<String>,
        /// The driver's error.
        #[source]
        cause: Arc<tokio_postgres::Error>,
    },
    /// A connect took longer than its timeout.
    #[error("connecting took longer than {after:?}: {problem}")]
    TimedOut {
        /// The connect timeout in force.
        after: Duration,
        /// What had not happened by then.
        problem: &'static str,
        /// Why the last renewal failed, if the connect waited for a certificate.
        #[source]
        last: Option<RenewError>,
    },
    /// No connection of the pool became free in time.
    #[error("no connection became free in time ({in_use} in use, {connecting} connecting)")]
    NoneFree {
        /// Connections in use, dedicated ones included.
        in_use: usize,
        /// Connects in flight.
        connecting: usize,
        /// Why the last connect failed, unless one has succeeded since: the cause.
        #[source]
        last: Option<Arc<Self>>,
    },
    /// The `on_connect` hook failed.
    #[error("on_connect failed")]
    OnConnect(#[source] Arc<tokio_postgres::Error>),
    /// The `on_connect` hook panicked.
    #[error("on_connect panicked")]
    OnConnectPanicked,
    /// The server or the network closed the connection while it was idle.
    #[error("the server or the network closed the connection")]
    Closed,
    /// The connection's certificate has expired, and there is no newer one.
    #[error("the connection's certificate (generation {generation}) has expired")]
    Expired {
        /// The generation of the connection's certificate.
        generation: u64,
        /// When its certificate expired, wall clock.
        not_after: SystemTime,
    },
    /// The pool is draining and hands out no more connections.
    #[error("the pool is draining")]
    Draining,
}

impl ConnectError {
    /// The failure of one server.
    pub(crate) fn postgres(error: tokio_postgres::Error, server: String, generation: u64) -> Self {
        Self::Postgres {
            class: classify(&error),
            server,
            generation,
            others: Vec::new(),
            cause: Arc::new(error),
        }
    }

    /// This failure, with what failed at other hosts and addresses.
    pub(crate) fn with_others(mut self, failed: Vec<String>) -> Self {
        if let Self::Postgres { others, .. } = &mut self {
            *others = failed;
        }
        self
    }

    pub(crate) fn setting(
        field: &'static str,
        got: impl fmt::Debug,
        expected: &'static str,
    ) -> Self {
        Self::Setting {
            field,
            got: format!("{got:?}"),
            expected,
        }
    }

    /// What kind of failure this is.
    ///
    /// [`NoneFree`](Self::NoneFree) has the class of its cause, or `TimedOut` without one.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Setting { .. } => FailureClass::Setting,
            Self::Certificate(_) => FailureClass::NoCertificate,
            Self::Postgres { class, .. } => *class,
            Self::NoneFree {
                last: Some(last), ..
            } => last.class(),
            Self::NoneFree { last: None, .. } | Self::TimedOut { .. } => FailureClass::TimedOut,
            Self::OnConnect(_) | Self::OnConnectPanicked => FailureClass::OnConnect,
            Self::Closed | Self::Expired { .. } => FailureClass::Ended,
            Self::Draining => FailureClass::Draining,
        }
    }

    /// Whether the server refused the certificate itself.
    pub fn is_refusal(&self) -> bool {
        self.class() == FailureClass::CertificateRefused
    }
}

/// What kind of failure a connect ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// A setting cannot be used.
    Setting,
    /// There was no certificate to connect with.
    NoCertificate,
    /// Name lookup or TCP failed, or no host matches `target_session_attrs`.
    Unreachable,
    /// The server answered that it has no TLS, or it is not Postgres.
    NoTls,
    /// The TLS handshake failed for a reason other than a certificate.
    Handshake,
    /// We do not trust the server's certificate.
    ServerNotTrusted,
    /// The server refused our certificate, with a TLS alert or with SQLSTATE 28000, or it accepts no
    /// signature of its key.
    CertificateRefused,
    /// The server is starting or stopping, or has reached `max_connections`.
    NotNow,
    /// The server refused the login for another reason, such as a missing database.
    LoginRefused,
    /// The connection closed during login.
    Lost,
    /// A connect, or the wait for a free connection, took too long.
    TimedOut,
    /// The `on_connect` hook failed.
    OnConnect,
    /// The pool is draining.
    Draining,
    /// A pooled connection was closed, or its certificate expired.
    Ended,
}

/// What happened, and what to do about it, with what the cause says beyond its class.
fn advice(class: FailureClass, cause: &tokio_postgres::Error) -> &'static str {
    match find_cause(cause) {
        Some(error) if is_no_signature(error) => {
            "postgres accepts no signature of the certificate's key; use another kind of key, or allow its signature algorithms in the OpenSSL configuration there"
        }
        // The cause says what is wrong with it, and the remedy.
        Some(error) if server_certificate_advice(error).is_some() => {
            "the server's certificate is not trusted"
        }
        _ => class.advice(),
    }
}

/// Whether the server asked for a certificate and takes no signature that our key can make.
fn is_no_signature(error: &rustls::Error) -> bool {
    let reason = PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon;
    *error == rustls::Error::PeerIncompatible(reason)
}

/// What failed elsewhere, as the end of a parenthesis.
struct Others<'a>(&'a [String]);

impl fmt::Display for Others<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for other in self.0 {
            write!(f, "; {other}")?;
        }
        Ok(())
    }
}

/// Why a connect timed out, as far as is known.
pub(crate) const NO_ANSWER: &str =
    "postgres did not answer; check that host and port belong to postgres, and its load";

impl FailureClass {
    /// Whether the failure may pass soon, so that the connect is tried again.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Self::Unreachable | Self::NotNow | Self::Lost)
    }

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setting => "setting",
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
                "the server has no TLS; check host and port, and `ssl = on` in postgresql.conf"
            }
            Self::Handshake => {
                "the TLS handshake failed; check that the server is postgres, and the TLS versions of both sides"
            }
            Self::ServerNotTrusted => {
                "the server's certificate is not trusted; it must name the host, and its CA must be among the source's roots"
            }
            Self::CertificateRefused => {
                "postgres refused the certificate; check pg_hba.conf, pg_ident.conf, ssl_ca_file and ssl_crl_file there"
            }
            Self::NotNow => {
                "postgres does not accept connections now; it is starting, stopping, or max_connections is reached"
            }
            Self::LoginRefused => "postgres refused the login; check user and database",
            Self::Lost => "the connection closed during login; see postgres' log",
            Self::NoCertificate => "there is no valid certificate to connect with",
            Self::Setting | Self::TimedOut | Self::OnConnect | Self::Draining | Self::Ended => {
                self.as_str()
            }
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The class of the driver's error.
///
/// With TLS 1.2 a refused certificate fails the handshake; with TLS 1.3 it fails the first read
/// after the handshake. The alert is the same, at different depths of the error.
pub(crate) fn classify(error: &tokio_postgres::Error) -> FailureClass {
    if let Some(code) = error.code() {
        return by_sqlstate(code);
    }
    if let Some(tls) = find_cause(error) {
        return by_tls_error(tls);
    }
    if find_cause::<Unavailable>(error).is_some() {
        // The certificate expired while the network was slow.
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

// tokio-postgres shows the kind of an error only in its text; tests on real servers pin these.
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
        // Our core fails such a handshake, where rustls would go on without a certificate.
        error if is_no_signature(error) => FailureClass::CertificateRefused,
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
            // The CA has a new key under its old name, so that the signature does not match.
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
    fn only_alerts_about_our_certificate_are_refusals() {
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
    fn sqlstates_distinguish_a_refused_certificate_from_a_busy_server() {
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
