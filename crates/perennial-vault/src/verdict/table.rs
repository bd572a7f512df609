use super::{CREDENTIAL_BACK_OFF, LOCKED_BACK_OFF, Operation, Outcome, Verdict};
use At::{Any, Issuing, Login, Reading, Revoking, Using};
use Body::{Foreign, Says, Whatever};
use Verdict::{CredentialRefused, PolicyRefused, Refused, TokenRefused, Transient, Unusable};

/// Vault's words before the CA's expiry.
pub(super) const BEYOND_CA: &str = "beyond the expiration of the CA certificate";

/// Which replies a row matches (the first and the last status), and what follows from them.
type Row = (At, (u16, u16), Body, Verdict, &'static str);

#[derive(Clone, Copy)]
enum At {
    Any,
    Login,
    /// Any request that is sent with the token in use, but for its renewal.
    Using,
    Issuing,
    Reading,
    Revoking,
}

#[derive(Clone, Copy)]
enum Body {
    Whatever,
    /// Not of Vault's form: from a proxy, or from Go's own HTTP server.
    Foreign,
    /// One of Vault's `errors` contains this.
    Says(&'static str),
    /// One of Vault's `errors` is exactly this.
    Is(&'static str),
}

/// The first row that matches; the last one always does.
pub(super) fn outcome(operation: Operation, status: u16, messages: Option<&[String]>) -> Outcome {
    let row = TABLE
        .iter()
        .find(|(at, (first, last), body, ..)| {
            at.matches(operation) && (*first..=*last).contains(&status) && body.matches(messages)
        })
        .unwrap_or(&OTHERWISE);
    Outcome {
        verdict: row.3,
        remedy: row.4,
    }
}

impl At {
    fn matches(self, operation: Operation) -> bool {
        use Operation as Op;
        match self {
            Any => true,
            Login => operation == Op::Login,
            Using => [Issuing, Reading, Revoking]
                .iter()
                .any(|at| at.matches(operation)),
            Issuing => matches!(operation, Op::Sign | Op::Issue),
            Reading => operation == Op::ReadIssuers,
            Revoking => operation == Op::Revoke,
        }
    }
}

impl Body {
    fn matches(self, messages: Option<&[String]>) -> bool {
        let any = |is: &dyn Fn(&str) -> bool| {
            messages.is_some_and(|texts| texts.iter().any(|text| is(text)))
        };
        match self {
            Whatever => true,
            Foreign => messages.is_none(),
            Says(words) => any(&|text| text.contains(words)),
            Self::Is(words) => any(&|text| text.trim() == words),
        }
    }
}

const fn only(status: u16) -> (u16, u16) {
    (status, status)
}

const WRONG_CREDENTIAL: Verdict = CredentialRefused {
    back_off: CREDENTIAL_BACK_OFF,
};
const LOCKED: Verdict = CredentialRefused {
    back_off: LOCKED_BACK_OFF,
};

/// A secret_id or a token that is bound to networks.
const NETWORK: &str = "the role is bound to other networks: log in from one of them, or correct secret_id_bound_cidrs and token_bound_cidrs";

const BAD_TOKEN: &str = "the token has expired, was revoked or is used up: provide a new one, or log in by AppRole; a new one is bound to other networks (token_bound_cidrs)";

static OTHERWISE: Row = (
    Any,
    (0, u16::MAX),
    Whatever,
    Unusable,
    "is the address vault's own?",
);

/// Read from the top: the more specific rows come first. docs/src/vault.md documents each row.
#[rustfmt::skip]
static TABLE: &[Row] = &[
    // Go's own HTTP server answers a plain request to a TLS port with 400 and no JSON.
    (Any, only(400), Foreign, Unusable, "if the port speaks TLS, use an https address"),
    (Login, only(400), Says("CIDR"), WRONG_CREDENTIAL, NETWORK),
    (Login, only(500), Says("CIDR"), WRONG_CREDENTIAL, NETWORK),
    (Login, only(400), Whatever, WRONG_CREDENTIAL, "the credential is wrong, used up or expired: provide a new one"),
    (Any, only(400), Says("wrapping token"), Refused, "have another secret_id wrapped"),
    (Any, only(400), Says("unknown role"), Refused, "this mount has no such role: correct role or mount"),
    (Any, only(400), Says(BEYOND_CA), Refused, "the CA is about to expire: renew it"),
    (Any, only(400), Says("role requires keys of type"), Refused, "set key_type to a type that the role allows"),
    (Any, only(400), Says("common_name field is required"), Refused, "set common_name, or require_cn=false on the role, with use_csr_common_name on"),
    (Any, only(400), Says("not allowed for issuing certificates without"), Refused, "with issue, set key_type on the role to one type: any leaves it to the request"),
    (Using, only(400), Says("missing client token"), TokenRefused, "the request came without a token: an agent must add its own (use_auto_auth_token)"),
    (Any, only(400), Says("not allowed"), Refused, "allow it on the role, or ask for another name"),
    (Any, only(400), Whatever, Refused, "correct the request or the role"),
    // A bad token is refused in bare words, a policy's refusal is a list of errors. OpenBao answers
    // `permission denied` alone, Vault since 1.17 adds `invalid token`.
    (Using, only(403), Says("invalid token"), TokenRefused, BAD_TOKEN),
    (Using, only(403), Body::Is("permission denied"), TokenRefused, BAD_TOKEN),
    (Using, only(403), Foreign, Refused, "the answer is not vault's: a proxy in between refused the request"),
    (Issuing, only(403), Whatever, PolicyRefused, "the token's policy does not allow update on this path: allow it, or correct mount and role"),
    (Login, only(403), Whatever, LOCKED, "the role is locked after refused logins (sys/locked-users), or no auth method is mounted at this path"),
    (Reading, only(403), Whatever, Refused, "allow the token to read the mount's issuer/+"),
    (Revoking, only(403), Whatever, Refused, "allow the token to update the mount's revoke"),
    (Any, only(404), Says("namespace not found"), Refused, "correct namespace"),
    (Any, (404, 405), Whatever, Refused, "no PKI engine is mounted at this path: correct mount"),
    (Any, only(408), Whatever, Transient, "retried automatically"),
    (Any, only(412), Whatever, Transient, "a standby lags behind: retried automatically"),
    (Any, only(429), Says("quota"), Transient, "raise the quota, or renew less often"),
    (Any, only(429), Whatever, Transient, "a standby lags behind: retried automatically"),
    (Any, (400, 499), Whatever, Refused, "is there a proxy in between?"),
    // Some of the errors that Vault answers with 500 need an operator.
    (Any, only(500), Says("no default issuer"), Refused, "set a default issuer on the mount"),
    (Any, only(500), Says("requested usage"), Refused, "add issuing-certificates to the issuer's usage"),
    (Any, only(500), Says("unable to find PKI issuer"), Refused, "this mount has no such issuer: correct issuer, or the role's issuer_ref"),
    (Any, only(500), Says("could not load backend configuration"), Refused, "configure the auth method"),
    (Any, only(500), Says("active cluster node not found"), Transient, "a leader is being elected: retried automatically"),
    (Any, only(501), Whatever, Transient, "initialise vault: `bao operator init`"),
    (Any, only(503), Says("sealed"), Transient, "unseal vault: `bao operator unseal`"),
    (Any, (500, 599), Whatever, Transient, "see the log of vault, or of the proxy in front of it"),
];

/// Every remedy, for the test that compares them with the page for operators.
#[cfg(test)]
pub(super) fn remedies() -> impl Iterator<Item = &'static str> {
    TABLE.iter().chain([&OTHERWISE]).map(|row| row.4)
}
