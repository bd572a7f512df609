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

fn above_leaf(issuers: &[&Ca]) -> Arc<AboveLeaf> {
    let texts: Vec<String> = issuers.iter().map(|ca| ca.pem()).collect();
    Arc::new(AboveLeaf::read(&texts).expect("they are read"))
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
        let roots = roots_of(&issuers).expect("they are read");
        assert_eq!(roots, expected, "row {row}");
    }
    let mangled = with(|i| i.ca_chain = Some(vec!["-----BEGIN CERTIFICATE-----\n!".to_owned()]));
    roots_of(&[mangled]).expect_err("a reading with anything unreadable in it counts for nothing");
}

#[tokio::test(start_paused = true)]
async fn nothing_empty_or_unreadable_replaces_a_set_of_roots() {
    let (a, b) = (root("root A"), root("root B"));
    let (of_a, of_b) = (intermediate("A", &a), intermediate("B", &b));
    let last = || Last {
        chain: vec![of_a.der().clone(), of_a.der().clone(), a.der().clone()],
        above_leaf: above_leaf(&[&of_a, &a]),
        key: Zeroizing::new(PrivateKeyDer::Pkcs8(of_a.key().serialize_der().into())),
        roots: vec![a.der().clone()],
        warnings: Vec::new(),
        guard: None,
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

#[tokio::test(start_paused = true)]
async fn issuers_are_read_after_each_renewal_and_every_ten_minutes() {
    let a = root("root A");
    let of_a = intermediate("A", &a);
    let issuers = Issuers::default();
    let deliver = || {
        let key = PrivateKeyDer::Pkcs8(of_a.key().serialize_der().into());
        let (chain, roots) = (vec![of_a.der().clone()], vec![a.der().clone()]);
        let material = CertMaterial::from_der(chain, key.clone_key(), roots).expect("material");
        issuers.delivered(&material, &key, above_leaf(&[&a]), None);
    };
    let read = || {
        let mut state = issuers.state();
        state.tried = Some(Instant::now());
        state.note(Ok(vec![issuer(&of_a, &a)]), "pki");
    };
    let in_seconds = || {
        let next = issuers.state().next_reading()?;
        Some(next.saturating_duration_since(Instant::now()).as_secs())
    };
    assert_eq!(in_seconds(), None, "nothing is delivered yet");
    deliver();
    assert_eq!(in_seconds(), Some(0));
    read();
    assert_eq!(in_seconds(), Some(600));
    // Renewals that storm bring no storm of readings.
    deliver();
    assert_eq!(in_seconds(), Some(1));
    tokio::time::advance(Duration::from_secs(40)).await;
    assert_eq!(in_seconds(), Some(0));
    read();
    assert_eq!(in_seconds(), Some(600));
    issuers.asking();
    assert_eq!(
        in_seconds(),
        None,
        "a fetch that has not delivered comes first"
    );
}
