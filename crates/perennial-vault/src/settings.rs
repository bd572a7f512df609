//! Checks of single settings; each error names its setter.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use reqwest::Url;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::Problem;

pub(crate) fn invalid(field: &'static str, got: impl Into<String>, takes: &'static str) -> Problem {
    Problem::Setting {
        field,
        got: got.into(),
        takes,
    }
}

pub(crate) fn address(text: &str) -> Result<Url, Problem> {
    const FIELD: &str = "address";
    const TAKES: &str = "a URL such as https://vault.example:8200";
    let url = Url::parse(text).map_err(|_error| {
        // An unparsed text may hold a password.
        let shown = if text.contains('@') {
            "not a URL"
        } else {
            text
        };
        invalid(FIELD, shown, TAKES)
    })?;
    // Checked before any error shows the URL.
    if !url.username().is_empty() || url.password().is_some() {
        let problem = "it holds a user name or password; the credential belongs to auth";
        return Err(Problem::Secret(FIELD, problem.to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.has_host() {
        return Err(invalid(FIELD, text, TAKES));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err(invalid(
            FIELD,
            text,
            "https; http only for localhost, 127.0.0.1 or [::1], since a token is sent",
        )),
    }
}

pub(crate) fn addresses(texts: &[String]) -> Result<Vec<Url>, Problem> {
    let list: Vec<Url> = texts
        .iter()
        .map(|text| address(text))
        .collect::<Result<_, _>>()?;
    for (i, url) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other.origin() == url.origin()) {
            return Err(invalid("address", url.as_str(), "each host and port once"));
        }
    }
    Ok(list)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A mount: one or more segments, none of which changes what the URL means.
pub(crate) fn path(field: &'static str, text: String) -> Result<String, Problem> {
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
    Err(invalid(
        field,
        text,
        r"a path such as pki_int, without empty or dotted segments, spaces, ?, #, % or \",
    ))
}

/// One segment of a path.
pub(crate) fn name(field: &'static str, text: String) -> Result<String, Problem> {
    if text.contains('/') {
        return Err(invalid(field, text, "a name without a slash"));
    }
    path(field, text)
}

pub(crate) fn namespace(text: &str) -> Result<HeaderValue, Problem> {
    let takes = "a path of visible ASCII characters";
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() || !trimmed.chars().all(|c| c.is_ascii_graphic()) {
        return Err(invalid("namespace", text, takes));
    }
    HeaderValue::from_str(trimmed).map_err(|_error| invalid("namespace", text, takes))
}

/// CA certificates in PEM, as a store and one by one.
pub(crate) fn roots(
    field: &'static str,
    pem: &[u8],
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Problem> {
    let takes = "one or more CA certificates in PEM";
    // The parser's error quotes the text, which may be a key.
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .unwrap_or_default();
    if list.is_empty() {
        return Err(invalid(field, format!("{} bytes", pem.len()), takes));
    }
    let mut store = RootCertStore::empty();
    for (i, root) in list.iter().enumerate() {
        store
            .add(root.clone())
            .map_err(|error| invalid(field, format!("certificate {i}: {error}"), takes))?;
    }
    Ok((store, list))
}

pub(crate) fn timeout(field: &'static str, timeout: Duration) -> Result<Duration, Problem> {
    match timeout.is_zero() {
        true => Err(invalid(field, "0ns", "a time longer than zero")),
        false => Ok(timeout),
    }
}
