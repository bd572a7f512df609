//! Every row of the table, answered by a scripted server: the error's text and kind.

use perennial::{SourceErrorKind, find_cause, with_causes};
use perennial_vault::VaultError;

use crate::once::{fetch, with_approle, with_token};
use crate::server::{Reply, Server};
use SourceErrorKind::{Denied, Invalid, Unavailable};

#[derive(Clone, Copy)]
enum Request {
    Login,
    Sign,
}
use Request::{Login, Sign};

/// The request, status, Vault's `errors` (`None`: a page of another server), kind, remedy.
type Row = (
    Request,
    u16,
    Option<&'static str>,
    SourceErrorKind,
    &'static str,
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (Sign, 400, None, Invalid, "if the port speaks TLS, use an https address"),
    (Login, 400, None, Invalid, "if the port speaks TLS, use an https address"),
    (Login, 400, Some("invalid role or secret ID"), Denied, "the credential is wrong"),
    (Sign, 400, Some("unknown role: app"), Denied, "no such role"),
    (Sign, 400, Some("TTL would result in notAfter of 1 that is beyond the expiration of the CA certificate at 0"), Denied, "the CA is about to expire"),
    (Sign, 400, Some("role requires keys of type ec"), Denied, "set key_type"),
    (Sign, 400, Some("the common_name field is required, or must be provided in a CSR"), Denied, "set common_name"),
    (Sign, 400, Some("common name app not allowed by this role"), Denied, "allow it on the role"),
    (Sign, 400, Some("csr contains no data"), Denied, "correct the request or the role"),
    (Sign, 401, None, Denied, "is there a proxy"),
    (Sign, 403, Some("permission denied"), Denied, "the token has expired"),
    (Sign, 403, Some("2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"), Denied, "the token has expired"),
    (Sign, 403, Some("1 error occurred:\n\t* permission denied\n\n"), Denied, "policy does not allow"),
    (Sign, 403, None, Denied, "a proxy in between refused"),
    (Login, 403, Some("permission denied"), Denied, "sys/locked-users"),
    (Sign, 404, Some("namespace not found"), Denied, "correct namespace"),
    (Sign, 404, Some("no handler for route \"pki/sign/app\". route entry not found."), Denied, "correct mount"),
    (Sign, 405, Some("1 error occurred:\n\t* unsupported operation\n\n"), Denied, "correct mount"),
    (Sign, 408, None, Unavailable, "retried automatically"),
    (Sign, 412, Some("required index state not present"), Unavailable, "a standby lags behind"),
    (Sign, 429, Some("request path \"pki/sign/app\": rate limit quota exceeded"), Unavailable, "raise the quota"),
    (Login, 429, Some(""), Unavailable, "a standby lags behind"),
    (Sign, 500, Some("no default issuer currently configured"), Denied, "set a default issuer"),
    (Sign, 500, Some("requested usage issuing-certificates for issuer [x] but only had usage read-only"), Denied, "add issuing-certificates"),
    (Sign, 500, Some("unable to find PKI issuer for reference: nope"), Denied, "correct issuer"),
    (Login, 500, Some("could not load backend configuration"), Denied, "configure the auth method"),
    (Sign, 500, Some("local node not active but active cluster node not found"), Unavailable, "a leader is being elected"),
    (Sign, 500, Some("internal error"), Unavailable, "see the log of vault"),
    (Sign, 501, None, Unavailable, "initialise vault"),
    (Sign, 502, None, Unavailable, "or of the proxy in front of it"),
    (Login, 503, Some("Vault is sealed"), Unavailable, "unseal vault"),
    (Sign, 503, None, Unavailable, "see the log of vault"),
    (Sign, 302, None, Invalid, "is the address vault's own?"),
];

/// Scenario: S6
#[tokio::test]
async fn each_reply_becomes_one_line_with_its_kind_and_remedy() {
    for &(request, status, errors, kind, remedy) in ROWS {
        let server = Server::start(move |_| match errors {
            Some("") => Reply::errors(status, &[]),
            Some(words) => Reply::errors(status, &[words]),
            None => Reply::json(status, "<html>no JSON</html>"),
        })
        .await;
        let source = match request {
            Login => with_approle(&server.url()),
            Sign => with_token(&server.url()),
        };
        let error = fetch(&source).await.unwrap_err();
        let line = with_causes(&error).to_string();
        assert_eq!(error.kind(), kind, "{line}");
        let cause: &VaultError = find_cause(&error).unwrap();
        assert_eq!(cause.kind(), kind, "{line}");
        assert_eq!(cause.status(), Some(status), "{line}");
        assert!(cause.remedy().unwrap().contains(remedy), "{line}");
        let (operation, path) = match request {
            Login => ("login", "auth/approle/login"),
            Sign => ("signing request", "pki/sign/app"),
        };
        assert_eq!(cause.operation(), Some(operation));
        for words in [operation, path, &format!("status {status}"), remedy] {
            assert!(line.contains(words), "{words}: {line}");
        }
        assert!(!line.contains('\n') && !line.contains("html"), "{line}");
        assert_eq!(server.requests().len(), 1, "{line}");
    }
}
