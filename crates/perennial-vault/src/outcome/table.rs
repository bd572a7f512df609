use super::{CREDENTIAL_HOLD, LOGIN_DENIED_HOLD, Verdict};
use crate::error::Step;
use At::{Any, Issuing, Login, Reading, Revoking, Using};
use Body::{Foreign, Says, Whatever};
use Verdict::{CredentialRefused, PolicyRefused, Refused, TokenRefused, Transient, Unusable};

/// What stands before the CA's end, in the words of Vault.
pub(super) const BEYOND_CA: &str = "beyond the expiration of the CA certificate";

/// Which replies a row is about, and what follows.
pub(super) struct Row {
    at: At,
    /// First and last status.
    status: (u16, u16),
    body: Body,
    pub(super) verdict: Verdict,
    pub(super) remedy: &'static str,
}

#[derive(Clone, Copy)]
enum At {
    Any,
    Login,
    /// The token, whatever for.
    Using,
    Issuing,
    /// The mount's issuers.
    Reading,
    Revoking,
}

#[derive(Clone, Copy)]
enum Body {
    Whatever,
    /// Not of Vault's form: a proxy's, or Go's own.
    Foreign,
    /// One of Vault's `errors` holds this.
    Says(&'static str),
    /// One of Vault's `errors` is this and no more.
    Is(&'static str),
}

/// The first row that fits; the last fits always.
pub(super) fn row(step: Step, status: u16, messages: Option<&[String]>) -> &'static Row {
    TABLE
        .iter()
        .find(|row| row.fits(step, status, messages))
        .unwrap_or(&OTHERWISE)
}

impl Row {
    fn fits(&self, step: Step, status: u16, messages: Option<&[String]>) -> bool {
        let at = match self.at {
            Any => true,
            Login => step == Step::Login,
            Using => matches!(
                step,
                Step::Sign | Step::Issue | Step::ReadIssuers | Step::Revoke
            ),
            Issuing => matches!(step, Step::Sign | Step::Issue),
            Reading => step == Step::ReadIssuers,
            Revoking => step == Step::Revoke,
        };
        let one = |is: &dyn Fn(&str) -> bool| {
            messages.is_some_and(|texts| texts.iter().any(|text| is(text)))
        };
        let body = match self.body {
            Whatever => true,
            Foreign => messages.is_none(),
            Says(words) => one(&|text| text.contains(words)),
            Body::Is(words) => one(&|text| text.trim() == words),
        };
        at && (self.status.0..=self.status.1).contains(&status) && body
    }
}

const fn row_of(
    at: At,
    status: (u16, u16),
    body: Body,
    verdict: Verdict,
    remedy: &'static str,
) -> Row {
    Row {
        at,
        status,
        body,
        verdict,
        remedy,
    }
}

const fn only(status: u16) -> (u16, u16) {
    (status, status)
}

const WRONG_CREDENTIAL: Verdict = CredentialRefused {
    hold: CREDENTIAL_HOLD,
};
const LOCKED: Verdict = CredentialRefused {
    hold: LOGIN_DENIED_HOLD,
};

static OTHERWISE: Row = row_of(
    Any,
    (0, u16::MAX),
    Whatever,
    Unusable,
    "is the address vault's own?",
);

/// Read from the top: the more special rows come first. docs/src/vault.md has it for people.
#[rustfmt::skip]
static TABLE: &[Row] = &[
    // Go's own HTTP server answers a plain request to a TLS port with 400 and no JSON.
    row_of(Any, only(400), Foreign, Unusable, "does the port speak TLS? then the address begins with https"),
    row_of(Login, only(400), Whatever, WRONG_CREDENTIAL, "the credential is wrong, spent or expired: give a new one"),
    row_of(Any, only(400), Says("wrapping token"), Refused, "have another secret_id wrapped"),
    row_of(Any, only(400), Says("unknown role"), Refused, "no such role on this mount: correct role or mount"),
    row_of(Any, only(400), Says(BEYOND_CA), Refused, "the CA is at its end: renew it"),
    row_of(Any, only(400), Says("role requires keys of type"), Refused, "set key_type to what the role takes"),
    row_of(Any, only(400), Says("common_name field is required"), Refused, "set common_name, or require_cn=false on the role, with use_csr_common_name on"),
    row_of(Any, only(400), Says("not allowed"), Refused, "allow it on the role, or ask for another name"),
    row_of(Any, only(400), Whatever, Refused, "correct the request or the role"),
    // A bad token is refused in bare words, a policy's refusal comes as a list of errors. OpenBao
    // says `permission denied` alone, Vault since 1.17 `invalid token` with it.
    row_of(Using, only(403), Says("invalid token"), TokenRefused, "the token has expired, was revoked or is spent: give a new one, or log in by AppRole"),
    row_of(Using, only(403), Body::Is("permission denied"), TokenRefused, "the token has expired, was revoked or is spent: give a new one, or log in by AppRole"),
    row_of(Using, only(403), Foreign, Refused, "these are not vault's words: a proxy in between refuses"),
    row_of(Issuing, only(403), Whatever, PolicyRefused, "the token's policy does not allow update on this path: allow it, or correct mount and role"),
    row_of(Login, only(403), Whatever, LOCKED, "locked for a while after refused logins (sys/locked-users), or nothing is mounted there"),
    row_of(Reading, only(403), Whatever, Refused, "allow the token read on the mount's issuer/+"),
    row_of(Revoking, only(403), Whatever, Refused, "allow the token update on the mount's revoke"),
    row_of(Any, only(404), Says("namespace not found"), Refused, "correct namespace"),
    row_of(Any, (404, 405), Whatever, Refused, "no such engine is mounted there: correct mount"),
    row_of(Any, only(408), Whatever, Transient, "it is asked again"),
    row_of(Any, only(412), Whatever, Transient, "a standby lags behind: it is asked again"),
    row_of(Any, only(429), Says("quota"), Transient, "raise the quota, or ask less often"),
    row_of(Any, only(429), Whatever, Transient, "a standby lags behind: it is asked again"),
    row_of(Any, (400, 499), Whatever, Refused, "is there a proxy in between?"),
    // Some of what Vault answers with 500 is cured by an operator alone.
    row_of(Any, only(500), Says("no default issuer"), Refused, "set a default issuer on the mount"),
    row_of(Any, only(500), Says("requested usage"), Refused, "let the issuer issue: its usage lacks issuing-certificates"),
    row_of(Any, only(500), Says("unable to find PKI issuer"), Refused, "no such issuer on this mount: correct issuer, or the role's issuer_ref"),
    row_of(Any, only(500), Says("could not load backend configuration"), Refused, "configure the auth method"),
    row_of(Any, only(500), Says("active cluster node not found"), Transient, "a leader is being elected: it is asked again"),
    row_of(Any, only(501), Whatever, Transient, "initialise it: `bao operator init`"),
    row_of(Any, only(503), Says("sealed"), Transient, "unseal it: `bao operator unseal`"),
    row_of(Any, (500, 599), Whatever, Transient, "see the log of vault, or of the proxy before it"),
];

/// What every remedy says, for the page that explains them.
#[cfg(test)]
pub(super) fn remedies() -> impl Iterator<Item = &'static str> {
    TABLE.iter().chain([&OTHERWISE]).map(|row| row.remedy)
}
