use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use perennial::Fingerprint;
use reqwest::Url;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::key::KeyType;
use crate::request::{CertRequest, KeyFrom};
use crate::transport::{Addresses, Transport};

/// Why [`VaultPkiBuilder::build`](crate::VaultPkiBuilder::build) refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting without a default was not set.
    #[error("{field} is not set")]
    Missing {
        /// The setter's name.
        field: &'static str,
    },
    /// A setting that cannot be used.
    #[error("{field} is {got:?}: it takes {takes}")]
    Setting {
        /// The setter's name.
        field: &'static str,
        /// The value it got, or what it is.
        got: String,
        /// What it takes.
        takes: &'static str,
    },
    /// A secret that cannot be used; its value is not shown.
    #[error("{field} holds {problem}")]
    Secret {
        /// Which part of [`Auth`](crate::Auth) it is.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A variable that [`VaultPki::from_env`](crate::VaultPki::from_env) does not take.
    #[error("the variable {name} cannot be used")]
    Variable {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// TLS or HTTP could not be set up with these settings.
    #[error("the connection to vault could not be set up")]
    Client(#[source] Box<dyn Error + Send + Sync>),
}

pub(crate) fn setting(
    field: &'static str,
    got: impl Into<String>,
    takes: &'static str,
) -> BuildError {
    BuildError::Setting {
        field,
        got: got.into(),
        takes,
    }
}

pub(crate) fn address(text: &str) -> Result<Url, BuildError> {
    const FIELD: &str = "address";
    const TAKES: &str = "a URL such as https://vault.example:8200";
    let url = Url::parse(text).map_err(|_unparsed| {
        // Not parsed, so a password in it cannot be told apart.
        let shown = if text.contains('@') {
            "not a URL"
        } else {
            text
        };
        setting(FIELD, shown, TAKES)
    })?;
    // Before anything shows it: it may hold a password.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BuildError::Secret {
            field: FIELD,
            problem: "a user name or password; the credential goes into auth".to_owned(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() || !url.has_host() {
        return Err(setting(FIELD, text, TAKES));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_this_machine(&url) => Ok(url),
        _ => Err(setting(
            FIELD,
            text,
            "https; http only for localhost, 127.0.0.1 or [::1], since a token travels in it",
        )),
    }
}

pub(crate) fn distinct(list: Vec<Url>) -> Result<Addresses, BuildError> {
    for (i, url) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other.origin() == url.origin()) {
            let takes = "each host and port once";
            return Err(setting("address", url.as_str(), takes));
        }
    }
    Ok(Addresses::new(list))
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A mount: one or more segments, none of which changes what the URL means.
pub(crate) fn path(field: &'static str, text: String) -> Result<String, BuildError> {
    let trimmed = text.trim_matches('/');
    let is_plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment
                .chars()
                .all(|c| c.is_ascii_graphic() && !r"?#%\".contains(c))
    };
    if trimmed.split('/').all(is_plain) {
        return Ok(trimmed.to_owned());
    }
    Err(setting(
        field,
        text,
        r"a path such as pki_int, without empty or dotted segments, spaces, ?, #, % or \",
    ))
}

pub(super) fn checked(request: CertRequest) -> Result<CertRequest, BuildError> {
    let missing = |field| Err(BuildError::Missing { field });
    if request.mount.is_empty() {
        return missing("mount");
    }
    if request.role.is_empty() {
        return missing("role");
    }
    let san = request.dns.len() + request.ip.len() + request.uri.len();
    if request.common_name.is_none() && san == 0 {
        return missing("common_name");
    }
    if let Some(name) = &request.common_name
        && (name.is_empty() || name.chars().any(char::is_control))
    {
        let takes = "a name without control characters";
        return Err(setting("common_name", name, takes));
    }
    if let Some(ttl) = request.ttl
        && (ttl.is_zero() || ttl.subsec_nanos() != 0)
    {
        let takes = "whole seconds, at least one";
        return Err(setting("ttl", format!("{ttl:?}"), takes));
    }
    if request.role.contains('/') {
        return Err(setting("role", request.role, "a name without a slash"));
    }
    if let Some(issuer) = &request.issuer
        && issuer.contains('/')
    {
        return Err(setting("issuer", issuer, "a name or id without a slash"));
    }
    if request.key_from == KeyFrom::Vault {
        request.no_comma()?;
    }
    Ok(CertRequest {
        issuer: request
            .issuer
            .map(|issuer| path("issuer", issuer))
            .transpose()?,
        mount: path("mount", request.mount)?,
        role: path("role", request.role)?,
        ..request
    })
}

pub(super) fn key_from(kind: Option<KeyType>, issue: bool) -> Result<KeyFrom, BuildError> {
    match kind {
        Some(kind) if issue => {
            let takes = "nothing with issue: there the role decides";
            Err(setting("key_type", format!("{kind:?}"), takes))
        }
        Some(kind) if kind.is_rsa() && !cfg!(feature = "aws-lc-rs") => {
            let takes = "RSA only with the feature aws-lc-rs";
            Err(setting("key_type", format!("{kind:?}"), takes))
        }
        None if issue => Ok(KeyFrom::Vault),
        kind => Ok(KeyFrom::Here(kind.unwrap_or_default())),
    }
}

pub(crate) fn namespace(text: &str) -> Result<HeaderValue, BuildError> {
    let takes = "a path of visible ASCII characters";
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() || !trimmed.chars().all(|c| c.is_ascii_graphic()) {
        return Err(setting("namespace", text, takes));
    }
    HeaderValue::from_str(trimmed).map_err(|_unsendable| setting("namespace", text, takes))
}

pub(crate) type Trusted = (RootCertStore, Vec<CertificateDer<'static>>);

/// The parser's errors quote the text they stumbled on, which may be a key: not kept.
pub(crate) fn trusted(field: &'static str, pem: &[u8]) -> Result<Trusted, BuildError> {
    let takes = "one or more CA certificates in PEM";
    let bytes = || format!("{} bytes", pem.len());
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_may_quote_a_key| setting(field, bytes(), takes))?;
    if list.is_empty() {
        return Err(setting(field, bytes(), takes));
    }
    let mut store = RootCertStore::empty();
    for (i, root) in list.iter().enumerate() {
        store
            .add(root.clone())
            .map_err(|error| setting(field, format!("certificate {i}: {error}"), takes))?;
    }
    Ok((store, list))
}

pub(crate) fn positive(field: &'static str, timeout: Duration) -> Result<Duration, BuildError> {
    if timeout.is_zero() {
        let takes = "a time longer than zero";
        return Err(setting(field, format!("{timeout:?}"), takes));
    }
    Ok(timeout)
}

/// Of several addresses the first one stands for the Vault, whatever nodes are added or leave.
pub(super) fn fingerprint(request: &CertRequest, transport: &Transport) -> Fingerprint {
    let namespace = transport.namespace().and_then(|value| value.to_str().ok());
    request.fingerprint(
        transport.first_address().as_str(),
        namespace.unwrap_or_default(),
    )
}
