use super::*;
use Operation::{Issue, Login, LookUpWrapping, ReadIssuers, RenewToken, Revoke, Sign, Unwrap};
use Verdict::{PolicyRefused, Refused, TokenRefused, Transient, Unusable};

const POLICY: &str = "1 error occurred:\n\t* permission denied\n\n";
const WRONG_SECRET: Verdict = Verdict::CredentialRefused {
    back_off: CREDENTIAL_BACK_OFF,
};
const LOCKED: Verdict = Verdict::CredentialRefused {
    back_off: LOCKED_BACK_OFF,
};

/// Operation, status, the reply's errors (`None`: a body that does not have Vault's form), verdict.
type Row = (Operation, u16, Option<&'static [&'static str]>, Verdict);

/// Scenario: S6
#[test]
fn every_reply_has_one_verdict() {
    #[rustfmt::skip]
    let table: &[Row] = &[
        (Issue, 400, Some(&["the common_name field is required, or"]), Refused),
        (Issue, 403, Some(&["permission denied"]), TokenRefused),
        (Issue, 403, Some(&[POLICY]), PolicyRefused),
        (Sign, 302, None, Unusable),
        (Sign, 400, Some(&["common name evil.org not allowed by this role"]), Refused),
        (Sign, 400, Some(&["unknown role: nope"]), Refused),
        (Sign, 400, Some(&["cannot satisfy request, as TTL would result in notAfter of 1 that is beyond the expiration of the CA certificate at 0"]), Refused),
        (Sign, 400, None, Unusable),
        (LookUpWrapping, 400, Some(&["wrapping token is not valid or does not exist"]), Refused),
        (Unwrap, 400, Some(&["wrapping token is not valid or does not exist"]), Refused),
        (RenewToken, 400, Some(&["lease is not renewable"]), Refused),
        (RenewToken, 500, Some(&["past the max TTL, cannot renew"]), Transient),
        (Login, 400, Some(&["invalid role or secret ID"]), WRONG_SECRET),
        (Login, 400, Some(&["source address \"10.1.2.3\" unauthorized through CIDR restrictions on the secret ID"]), WRONG_SECRET),
        (Issue, 400, Some(&["role key type \"any\" not allowed for issuing certificates without providing key_type"]), Refused),
        (Sign, 400, Some(&["missing client token"]), TokenRefused),
        (Login, 400, None, Unusable),
        (Sign, 401, None, Refused),
        (Sign, 403, Some(&["permission denied"]), TokenRefused),
        (Sign, 403, Some(&["permission denied", "invalid token"]), TokenRefused),
        (Sign, 403, Some(&["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]), TokenRefused),
        (Sign, 403, Some(&[POLICY]), PolicyRefused),
        (Sign, 403, Some(&[]), PolicyRefused),
        (Sign, 403, None, Refused),
        (ReadIssuers, 403, Some(&[POLICY]), Refused),
        (ReadIssuers, 403, Some(&["permission denied"]), TokenRefused),
        (Revoke, 403, Some(&[POLICY]), Refused),
        (Revoke, 403, Some(&["permission denied"]), TokenRefused),
        (Login, 403, Some(&["permission denied"]), LOCKED),
        (Login, 403, None, LOCKED),
        (Sign, 404, Some(&["no handler for route \"nope/sign/web\". route entry not found."]), Refused),
        (Sign, 404, Some(&[]), Refused),
        (Sign, 404, None, Refused),
        (Sign, 405, Some(&["1 error occurred:\n\t* unsupported operation\n\n"]), Refused),
        (Sign, 408, None, Transient),
        (Sign, 412, Some(&[]), Transient),
        (Sign, 429, Some(&[]), Transient),
        (Sign, 429, Some(&["request path \"pki/sign/web\": rate limit quota exceeded"]), Transient),
        (Login, 429, Some(&[]), Transient),
        (Sign, 500, Some(&["could not fetch the CA certificate (was one set?): no default issuer currently configured"]), Refused),
        (Sign, 500, Some(&["requested usage issuing-certificates for issuer [x] but only had usage crl-signing"]), Refused),
        (Sign, 500, Some(&["unable to find PKI issuer for reference: nope"]), Refused),
        (Login, 500, Some(&["could not load backend configuration"]), Refused),
        (Sign, 500, Some(&["local node not active but active cluster node not found"]), Transient),
        (Sign, 500, Some(&["internal error"]), Transient),
        (Sign, 500, None, Transient),
        (Sign, 501, None, Transient),
        (Sign, 502, None, Transient),
        (Sign, 503, Some(&["Vault is sealed"]), Transient),
        (Login, 503, Some(&["Vault is sealed"]), Transient),
        (Sign, 504, None, Transient),
        (Sign, 599, None, Transient),
    ];
    for &(operation, status, messages, expected) in table {
        let messages: Option<Vec<String>> =
            messages.map(|texts| texts.iter().map(ToString::to_string).collect());
        let status = StatusCode::from_u16(status).expect("a status of the table");
        assert_eq!(
            outcome(operation, status, messages.as_deref(), None).verdict,
            expected,
            "{operation:?} {status} {messages:?}"
        );
    }
}

#[test]
fn remaining_lifetime_of_the_ca_is_read_from_the_refusal() {
    let text = |expiry: &str| {
        format!(
            "cannot satisfy request, as TTL would result in notAfter of \
             2026-11-22T23:50:27.361125245Z that is beyond the expiration of the CA certificate{expiry}"
        )
    };
    let date = humantime::parse_rfc3339("2026-11-22T22:50:27Z").ok();
    let of = |expiry: &str, date| {
        let messages = [text(expiry)];
        outcome(Sign, StatusCode::BAD_REQUEST, Some(&messages), date).verdict
    };
    let Verdict::BeyondCa { remaining, .. } = of(" at 2026-11-22T23:00:27Z", date) else {
        panic!("the expiry is not read");
    };
    assert_eq!(remaining, Duration::from_secs(600));
    let Verdict::BeyondCa { remaining, .. } = of(" at 2026-11-22T22:00:00Z", date) else {
        panic!("the expiry is not read");
    };
    assert_eq!(remaining, Duration::ZERO);
    // In other words, or without a `Date`: an operator must look at it.
    assert_eq!(of(" at noon", date), Refused);
    assert_eq!(of("", date), Refused);
    assert_eq!(of(" at 2026-11-22T23:00:27Z", None), Refused);
}

#[test]
fn missing_permission_other_than_issuing_is_named() {
    for (operation, lacks) in [(ReadIssuers, "to read"), (Revoke, "to update")] {
        let messages = [POLICY.to_owned()];
        let remedy = outcome(operation, StatusCode::FORBIDDEN, Some(&messages), None).remedy;
        assert!(remedy.contains(lacks), "{operation:?}: {remedy}");
    }
}

/// Scenario: S6
#[test]
fn page_for_operators_lists_every_remedy() {
    let page = include_str!("../../../../docs/src/vault.md");
    for remedy in table::remedies() {
        assert!(page.contains(remedy), "not on the page: {remedy}");
    }
}

#[test]
fn a_wrong_secret_cannot_lock_the_role() {
    // Five refused logins within fifteen minutes lock it.
    let window = Duration::from_secs(15 * 60);
    assert!(window.as_secs() / CREDENTIAL_BACK_OFF.as_secs() < 5);
}
