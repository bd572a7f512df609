use std::collections::BTreeMap;

use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use zeroize::Zeroizing;

/// A POST whose body is a flat object of strings, wiped when dropped.
///
/// vaultrs' own login requests keep their secrets in plain strings, and its certificate login names
/// the role in a field that Vault ignores.
pub(crate) struct Call {
    path: String,
    body: Zeroizing<Vec<u8>>,
}

impl Call {
    #[expect(clippy::expect_used, reason = "strings are always JSON")]
    pub(crate) fn new(path: impl Into<String>, fields: &[(&str, &str)]) -> Self {
        let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
        let body = serde_json::to_vec(&fields).expect("a map of strings is JSON");
        Self {
            path: path.into(),
            body: Zeroizing::new(body),
        }
    }
}

impl Endpoint for Call {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(Some(self.body.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_a_secret_stay_within_it() {
        let call = Call::new("auth/x/login", &[("password", r#"a","role":"b"#)]);
        let body = call.body().expect("a body").expect("a body");
        assert_eq!(
            String::from_utf8(body).expect("text"),
            r#"{"password":"a\",\"role\":\"b"}"#
        );
    }
}
