//! The requests to Vault: vaultrs' typed ones wherever these carry no secret.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use rustify::endpoint::Endpoint;
use vaultrs::api::sys::requests::UnwrapRequest;
use vaultrs::api::token::requests::RenewTokenSelfRequest;
use zeroize::Zeroizing;

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
        }
    }

    /// A POST whose body is a flat object of strings.
    ///
    /// vaultrs' own login requests keep their secrets in plain strings, its certificate login names
    /// the role in a field that Vault ignores, and its revocation takes serial numbers alone.
    #[expect(clippy::expect_used, reason = "strings are always JSON")]
    pub(crate) fn post(operation: Operation, path: String, fields: &[(&str, &str)]) -> Self {
        let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
        let body = serde_json::to_vec(&fields).expect("a map of strings is JSON");
        Self {
            operation,
            method: Method::POST,
            path,
            body: Bytes::from_owner(Zeroizing::new(body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_a_secret_are_escaped() {
        let fields = [("password", r#"a","role":"b"#)];
        let request = Request::post(Operation::Login, "auth/x/login".to_owned(), &fields);
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
