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

fn with_root(root: &Ca) -> CertRoots {
    let roots = vec![root.der().clone()];
    CertRoots {
        issuers: roots.clone(),
        own: roots.clone(),
        delivered: roots,
    }
}

fn mangled(issuer: Issuer) -> Issuer {
    Issuer {
        ca_chain: Some(vec!["-----BEGIN CERTIFICATE-----\n!".to_owned()]),
        ..issuer
    }
}

/// Scenario: C9
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
        // Its root is unknown.
        (vec![good, with(|i| i.ca_chain = None)], vec![a]),
    ];
    for (row, (issuers, expected)) in table.into_iter().enumerate() {
        let roots = roots_of(&issuers).expect("they are read");
        assert_eq!(roots, expected, "row {row}");
    }
    roots_of(&[mangled(other)]).expect_err("one unreadable issuer invalidates the whole reading");
}

/// Scenario: N01
#[test]
fn only_what_an_issuers_signatures_lead_to_becomes_a_root() {
    // The root changed its key: the old one signed the certificate of the new one.
    let (old, stranger, namesake) = (root("root"), root("stranger"), root("root"));
    let rollover = intermediate("root", &old);
    let of_new = intermediate("A", &rollover);
    let read = Issuer {
        ca_chain: Some(vec![
            of_new.pem(),
            rollover.pem(),
            old.pem(),
            stranger.pem(),
            namesake.pem(),
        ]),
        ..issuer(&of_new, &old)
    };
    let roots = roots_of(&[read]).expect("it is read");
    assert_eq!(roots, [old.der().clone()]);
    // A root that issues leads to itself.
    let roots = roots_of(&[issuer(&stranger, &stranger)]).expect("it is read");
    assert_eq!(roots, [stranger.der().clone()]);
}

/// Scenario: N01
#[test]
fn root_that_no_chain_names_is_found_among_the_issuers_of_the_mount() {
    let (a, b) = (root("root A"), root("root B"));
    let of_a = intermediate("A", &a);
    let by_b = {
        let key = KeyPair::from_pem(&of_a.key().serialize_pem()).expect("its key");
        CertifiedIssuer::signed_by(params("A"), key, &b).expect("an intermediate")
    };
    // What a `manual_chain` of both certificates of one issuer leaves.
    let crossed = Issuer {
        ca_chain: Some(vec![of_a.pem(), by_b.pem()]),
        ..issuer(&of_a, &a)
    };
    let keyless = |ca: &Ca| Issuer {
        ca_chain: Some(vec![ca.pem()]),
        key_id: String::new(),
        ..issuer(ca, ca)
    };
    let found = roots_of(&[keyless(&a), crossed.clone(), keyless(&b)]).expect("they are read");
    assert_eq!(found, [a.der().clone(), b.der().clone()]);
    let revoked = Issuer {
        revoked: true,
        ..keyless(&b)
    };
    let found = roots_of(&[keyless(&a), crossed, revoked]).expect("they are read");
    assert_eq!(found, [a.der().clone()]);
}

/// Scenario: C9
#[tokio::test(start_paused = true)]
async fn empty_or_unreadable_answers_replace_no_roots() {
    let (a, b) = (root("root A"), root("root B"));
    let (of_a, of_b) = (intermediate("A", &a), intermediate("B", &b));
    let issuers = Issuers::default();
    issuers.published(Some(with_root(&a)));
    let note = |reading: Result<Vec<Issuer>, Failure>| {
        issuers.state().note(reading, "pki");
    };
    let other_roots = || issuers.state().other_roots();
    let refused = || Failure::unusable(Problem::Unusable(Operation::ReadIssuers, "it is mangled"));
    let unreadable = || {
        let of_b = mangled(issuer(&of_b, &b));
        [Ok(vec![]), Err(refused()), Ok(vec![of_b])]
    };
    for reading in unreadable() {
        note(reading);
        assert_eq!(other_roots(), None);
    }
    note(Ok(vec![issuer(&of_a, &a), issuer(&of_b, &b)]));
    let both = vec![a.der().clone(), b.der().clone()];
    assert_eq!(other_roots(), Some(both.clone()));
    for reading in unreadable() {
        note(reading);
        assert_eq!(other_roots(), Some(both.clone()));
    }
    // The root of the leaf in use is kept even where its issuer may not issue any more.
    note(Ok(vec![issuer(&of_b, &b)]));
    assert_eq!(other_roots(), Some(both.clone()));
    // Roots that are in use are not delivered again.
    note(Ok(vec![issuer(&of_a, &a)]));
    assert_eq!(other_roots(), None);
    // And other roots only once.
    note(Ok(vec![issuer(&of_a, &a), issuer(&of_b, &b)]));
    assert_eq!(issuers.take_other_roots(), Some(both));
    assert_eq!(issuers.take_other_roots(), None);
}

#[tokio::test(start_paused = true)]
async fn issuers_are_read_after_each_renewal_and_every_ten_minutes() {
    let a = root("root A");
    let of_a = intermediate("A", &a);
    let issuers = Issuers::default();
    let publish = || issuers.published(Some(with_root(&a)));
    let read = || {
        let mut state = issuers.state();
        state.tried = Some(Instant::now());
        state.note(Ok(vec![issuer(&of_a, &a)]), "pki");
    };
    let in_seconds = || {
        let next = issuers.state().next_reading()?;
        Some(next.saturating_duration_since(Instant::now()).as_secs())
    };
    assert_eq!(in_seconds(), None, "no certificate is in use yet");
    publish();
    assert_eq!(in_seconds(), Some(0));
    read();
    assert_eq!(in_seconds(), Some(600));
    // Frequent renewals do not cause frequent readings.
    publish();
    assert_eq!(in_seconds(), Some(1));
    tokio::time::advance(Duration::from_secs(40)).await;
    assert_eq!(in_seconds(), Some(0));
    read();
    assert_eq!(in_seconds(), Some(600));
    issuers.published(None);
    assert_eq!(
        in_seconds(),
        None,
        "a certificate of another source is in use"
    );
}

/// Vault's guide for the change of a root imports the new CA first, and names it in a chain then.
/// Scenario: N01
#[tokio::test(start_paused = true)]
async fn chain_that_changes_after_the_list_was_read_is_read_at_the_next_renewal() {
    let (a, b) = (root("root A"), root("root B"));
    let of_a = intermediate("A", &a);
    let issuers = Issuers::default();
    issuers.published(Some(with_root(&a)));
    let reading = Reading::Read(IssuerList::default(), vec![issuer(&of_a, &a)]);
    issuers.state().take(Ok(reading), "pki");
    issuers.published(Some(with_root(&a)));
    let known = issuers.state().known();
    assert_eq!(known, Some(IssuerList::default()), "read already");
    let both = CertRoots {
        issuers: vec![of_a.der().clone(), b.der().clone()],
        ..with_root(&a)
    };
    issuers.published(Some(both));
    assert_eq!(issuers.state().known(), None, "to be read again");
}
