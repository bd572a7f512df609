use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn root(name: &str) -> Ca {
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params(name), key).expect("a root")
}

fn intermediate(name: &str, root: &Ca) -> Ca {
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::signed_by(params(name), key, root).expect("an intermediate")
}

/// An intermediate that may issue, whose root was imported with it.
fn issuer(ca: &Ca, root: &Ca) -> Issuer {
    Issuer {
        certificate: ca.pem(),
        ca_chain: Some(vec![ca.pem(), root.pem()]),
        usage: "crl-signing,issuing-certificates,read-only".to_owned(),
        key_id: "some".to_owned(),
        revoked: false,
    }
}

#[test]
fn only_issuers_that_may_issue_lead_to_roots() {
    let (a, b) = (root("root A"), root("root B"));
    let (of_a, of_b) = (intermediate("A", &a), intermediate("B", &b));
    let (good, other) = (issuer(&of_a, &a), issuer(&of_b, &b));
    let with = |change: fn(&mut Issuer)| {
        let mut changed = other.clone();
        change(&mut changed);
        changed
    };
    let (a, b) = (a.der().clone(), b.der().clone());
    let table = [
        (vec![], vec![]),
        (vec![good.clone()], vec![a.clone()]),
        (vec![good.clone(), other.clone()], vec![a.clone(), b]),
        (vec![good.clone(), good.clone()], vec![a.clone()]),
        (
            vec![good.clone(), with(|i| i.usage = "read-only".to_owned())],
            vec![a.clone()],
        ),
        (
            vec![good.clone(), with(|i| i.usage.clear())],
            vec![a.clone()],
        ),
        (
            vec![good.clone(), with(|i| i.revoked = true)],
            vec![a.clone()],
        ),
        (
            vec![good.clone(), with(|i| i.key_id.clear())],
            vec![a.clone()],
        ),
        // Nobody knows its root.
        (vec![good, with(|i| i.ca_chain = None)], vec![a]),
    ];
    for (row, (issuers, expected)) in table.into_iter().enumerate() {
        let (roots, _known) = sorted(&issuers).expect("they are read");
        assert_eq!(roots, expected, "row {row}");
    }
    let mangled = with(|i| i.ca_chain = Some(vec!["-----BEGIN CERTIFICATE-----\n!".to_owned()]));
    sorted(&[mangled]).expect_err("a reading with anything unreadable in it counts for nothing");
}

#[tokio::test(start_paused = true)]
async fn nothing_empty_or_unreadable_replaces_a_set_of_roots() {
    let (a, b) = (root("root A"), root("root B"));
    let (of_a, of_b) = (intermediate("A", &a), intermediate("B", &b));
    let last = || Last {
        chain: vec![of_a.der().clone(), of_a.der().clone(), a.der().clone()],
        key: Zeroizing::new(PrivateKeyDer::Pkcs8(of_a.key().serialize_der().into())),
        roots: vec![a.der().clone()],
        warnings: Vec::new(),
        guard: None,
        interval: Duration::from_secs(60),
    };
    let mut state = State {
        last: Some(last()),
        ..State::default()
    };
    let refused = || {
        Failure::unusable(VaultError::Unusable {
            step: Step::ReadIssuers,
            problem: "it is mangled",
        })
    };
    let mangled = Issuer {
        certificate: String::new(),
        ca_chain: Some(vec!["-----BEGIN CERTIFICATE-----\n!".to_owned()]),
        ..issuer(&of_b, &b)
    };
    for reading in [Ok(vec![]), Err(refused()), Ok(vec![mangled.clone()])] {
        state.note(reading, "pki");
        assert_eq!(state.other_roots(), None);
    }
    state.note(Ok(vec![issuer(&of_a, &a), issuer(&of_b, &b)]), "pki");
    let both = vec![a.der().clone(), b.der().clone()];
    assert_eq!(state.other_roots(), Some(both.clone()));
    for reading in [Ok(vec![]), Err(refused()), Ok(vec![mangled])] {
        state.note(reading, "pki");
        assert_eq!(state.other_roots(), Some(both.clone()));
    }
    // The root of the leaf in use stays even where its issuer may issue no more.
    state.note(Ok(vec![issuer(&of_b, &b)]), "pki");
    assert_eq!(state.other_roots(), Some(both));
    // What was delivered is not delivered again.
    state.note(Ok(vec![issuer(&of_a, &a)]), "pki");
    assert_eq!(state.other_roots(), None);
}

#[test]
fn issuers_are_read_three_times_in_a_life_and_every_ten_minutes_at_least() {
    let table = [(1, 1), (3, 1), (60, 20), (1_800, 600), (86_400, 600)];
    for (life, expected) in table {
        let read = interval(Duration::from_secs(life));
        assert_eq!(read, Duration::from_secs(expected), "{life} s");
    }
}
