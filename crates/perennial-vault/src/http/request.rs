//! The requests to Vault: vaultrs' typed ones wherever these carry no secret.

use std::collections::BTreeMap;
use std::io::{self, Write};

use bytes::Bytes;
use http::Method;
use rustify::endpoint::Endpoint;
use vaultrs::api::sys::requests::UnwrapRequest;
use vaultrs::api::token::requests::RenewTokenSelfRequest;
use zeroize::Zeroizing;

use super::strike::Sent;
use crate::error::{Failure, Problem};
use crate::verdict::Operation;

pub(crate) use vaultrs::api::pki::requests::{
    GenerateCertificateRequest, ListIssuersRequest, SignCertificateRequest,
};

/// One request, as every address receives it.
pub(crate) struct Request {
    pub(crate) operation: Operation,
    pub(super) method: Method,
    pub(super) path: String,
    /// It may hold a credential: one copy for all attempts, wiped after the last.
    pub(super) body: Bytes,
    /// Those values of the body that no text of the server may repeat.
    secrets: Vec<Zeroizing<String>>,
}

impl Request {
    /// A request of vaultrs, which gives method, path and body.
    ///
    /// rustify's own `exec` is not used: it drops the reply's headers, keeps raw bodies in its
    /// errors, and logs each refusal as an error of its own.
    pub(crate) fn typed(operation: Operation, endpoint: &impl Endpoint) -> Result<Self, Failure> {
        // rustify's error is not kept: some of its variants hold the content.
        let body = endpoint.body().map_err(|_error| {
            Failure::unusable(Problem::Request(
                operation,
                "vaultrs failed to serialise it".into(),
            ))
        })?;
        let path = endpoint.path();
        Ok(Self {
            operation,
            method: endpoint.method().into(),
            // Some of vaultrs' paths begin with a tab.
            path: path.trim().trim_matches('/').to_owned(),
            body: Bytes::from_owner(Zeroizing::new(body.unwrap_or_default())),
            secrets: Vec::new(),
        })
    }

    /// Renews the lease of the token that is sent with it.
    pub(crate) fn renew_token() -> Result<Self, Failure> {
        Self::typed(Operation::RenewToken, &RenewTokenSelfRequest::default())
    }

    /// Unwraps the wrapping token that is sent with it.
    pub(crate) fn unwrap() -> Result<Self, Failure> {
        Self::typed(Operation::Unwrap, &UnwrapRequest { token: None })
    }

    pub(crate) fn get(operation: Operation, path: String) -> Self {
        Self {
            operation,
            method: Method::GET,
            path,
            body: Bytes::new(),
            secrets: Vec::new(),
        }
    }

    /// A POST whose body is a flat object of strings: those that texts may repeat, and secrets.
    ///
    /// vaultrs' own login requests keep their secrets in plain strings, its certificate login names
    /// the role in a field that Vault ignores, and its revocation takes serial numbers alone.
    pub(crate) fn post(
        operation: Operation,
        path: String,
        public: &[(&str, &str)],
        secret: &[(&str, &str)],
    ) -> Self {
        let copy = |(_, value): &(&str, &str)| Zeroizing::new((*value).to_owned());
        Self {
            operation,
            method: Method::POST,
            path,
            body: Bytes::from_owner(body(public.iter().chain(secret).copied().collect())),
            secrets: secret.iter().map(copy).collect(),
        }
    }

    /// A login at `mount`, with the fields that texts may repeat, and the secret ones.
    pub(crate) fn login(
        mount: &str,
        suffix: &str,
        public: &[(&str, &str)],
        secret: &[(&str, &str)],
    ) -> Self {
        let path = format!("auth/{mount}/login{suffix}");
        Self::post(Operation::Login, path, public, secret)
    }

    /// What this request sends, with this token, that no text of the server may repeat.
    pub(super) fn sent(&self, token: Option<&str>) -> Sent {
        Sent::new(self.secrets.iter().map(|value| value.as_str()).chain(token))
    }
}

/// The fields as JSON, in memory that is wiped: a buffer that grew would leave copies behind.
#[expect(clippy::expect_used, reason = "strings are always JSON")]
fn body(fields: BTreeMap<&str, &str>) -> Zeroizing<Vec<u8>> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, &fields).expect("a map of strings is JSON");
    let mut body = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *body, &fields).expect("a map of strings is JSON");
    body
}

/// Counts what is written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_a_secret_are_escaped() {
        let fields = [("password", r#"a","role":"b"#)];
        let path = "auth/x/login".to_owned();
        let request = Request::post(Operation::Login, path, &[], &fields);
        assert_eq!(request.body, r#"{"password":"a\",\"role\":\"b"}"#);
    }

    #[test]
    fn requests_about_their_own_token_have_no_fields() {
        for (request, path) in [
            (Request::renew_token(), "auth/token/renew-self"),
            (Request::unwrap(), "sys/wrapping/unwrap"),
        ] {
            let request = request.expect("it is serialised");
            assert_eq!(
                (request.method, request.path.as_str()),
                (Method::POST, path)
            );
            assert!(request.body.is_empty() || request.body == "{}");
        }
    }
}
