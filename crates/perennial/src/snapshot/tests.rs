use rustls_pki_types::CertificateDer;

use super::*;
use crate::material::Usage;
use crate::testing::{MINUTE, TestCa, noon};
use crate::tls::{TlsSettings, default_provider};

fn policy(settings: TlsSettings) -> TlsPolicy {
    policy_for(settings, Usage::Client)
}

fn policy_for(settings: TlsSettings, usage: Usage) -> TlsPolicy {
    TlsPolicy::new(default_provider().unwrap(), settings, usage).unwrap()
}

fn build(material: CertMaterial, now: SystemTime) -> Result<Snapshot, MaterialError> {
    Snapshot::build(&Arc::new(material), None, now, &policy(TlsSettings::new()))
}

#[test]
fn material_becomes_a_snapshot_with_the_facts_of_its_leaf() {
    let ca = TestCa::new();
    let snapshot = build(ca.issue(noon(), 10 * MINUTE), noon() + MINUTE).unwrap();
    assert_eq!(snapshot.names().common_name.as_deref(), Some("app"));
    assert_eq!(snapshot.names().dns, ["app.test"]);
    assert_eq!(snapshot.not_before(), noon());
    assert_eq!(snapshot.not_after(), noon() + 10 * MINUTE);
    assert_eq!(snapshot.obtained_at(), noon() + MINUTE);
    assert_eq!(snapshot.remaining(noon() + 4 * MINUTE), 6 * MINUTE);
    assert_eq!(snapshot.remaining(noon() + 11 * MINUTE), Duration::ZERO);
}

/// Scenario: T5
#[test]
fn usable_lifetime_counts_from_when_it_was_obtained() {
    // T5: Vault sets not_before 30 s back; the schedule must not see those seconds.
    let ca = TestCa::new();
    let snapshot = build(ca.issue(noon(), 10 * MINUTE), noon() + 5 * MINUTE).unwrap();
    assert_eq!(snapshot.usable_lifetime().length(), 5 * MINUTE);
}

#[test]
fn saved_material_keeps_the_time_it_was_obtained_at() {
    // T5, S10: a restart must neither stretch nor shrink the usable lifetime of a saved certificate.
    let ca = TestCa::new();
    let material = |at| ca.issue(noon(), 10 * MINUTE).obtained_at(at);
    let now = noon() + 5 * MINUTE;
    let saved = build(material(noon() + MINUTE), now).unwrap();
    assert_eq!(saved.obtained_at(), noon() + MINUTE);
    assert_eq!(saved.usable_lifetime().length(), 9 * MINUTE);
    let ahead = build(material(noon() + 7 * MINUTE), now).unwrap();
    assert_eq!(ahead.obtained_at(), now);
    let early = build(material(noon() - MINUTE), now).unwrap();
    assert_eq!(early.usable_lifetime().length(), 10 * MINUTE);
}

#[test]
fn guard_of_a_source_is_dropped_with_the_last_snapshot_handle() {
    let guard: Arc<dyn std::any::Any + Send + Sync> = Arc::new(());
    let material = TestCa::new().issue(noon(), MINUTE);
    let material = material.with_guard(Arc::clone(&guard));
    let held = Arc::new(build(material, noon()).unwrap());
    let also = Arc::clone(&held);
    drop(held);
    assert_eq!(Arc::strong_count(&guard), 2);
    drop(also);
    assert_eq!(Arc::strong_count(&guard), 1);
}

#[test]
fn generation_follows_the_previous_one() {
    let (ca, tls) = (TestCa::new(), policy(TlsSettings::new()));
    let mut previous: Option<Snapshot> = None;
    for generation in 1..=3 {
        let material = ca.issue(noon(), MINUTE);
        let next = Snapshot::build(&Arc::new(material), previous.as_ref(), noon(), &tls).unwrap();
        assert_eq!(next.generation(), generation);
        previous = Some(next);
    }
}

#[test]
fn key_of_another_certificate_is_refused() {
    let ca = TestCa::new();
    let (leaf, _key) = ca.leaf(noon(), MINUTE);
    let (_other, key) = ca.leaf(noon(), MINUTE);
    let material = CertMaterial::from_der(vec![leaf], key, vec![ca.root_der()]).unwrap();
    assert!(matches!(
        build(material, noon()),
        Err(MaterialError::KeyMismatch { .. })
    ));
}

#[test]
fn key_of_which_only_the_signer_is_held_is_accepted_and_checked() {
    // Such as one in a device.
    let ca = TestCa::new();
    let material = |of: &CertificateDer<'static>,
                    key: &rustls_pki_types::PrivateKeyDer<'static>| {
        let provider = default_provider().unwrap().key_provider;
        let signer = provider.load_private_key(key.clone_key()).unwrap();
        let chain = vec![of.clone(), ca.intermediate_der()];
        CertMaterial::from_signing_key(chain, signer, vec![ca.root_der()]).unwrap()
    };
    let ((leaf, key), (other, _)) = (ca.leaf(noon(), MINUTE), ca.leaf(noon(), MINUTE));
    let snapshot = build(material(&leaf, &key), noon()).unwrap();
    assert!(snapshot.is_made_of(&material(&leaf, &key)));
    assert!(!snapshot.is_made_of(&material(&other, &key)));
    let mismatch = build(material(&other, &key), noon());
    assert!(matches!(mismatch, Err(MaterialError::KeyMismatch { .. })));
}

/// Scenario: S5
#[test]
fn chain_that_does_not_begin_with_the_leaf_is_presented_leaf_first() {
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), MINUTE);
    let chain = vec![ca.intermediate_der(), leaf.clone()];
    let material = CertMaterial::from_der(chain, key, vec![ca.root_der()]).unwrap();
    let snapshot = build(material.roots_issue_leaf(), noon()).unwrap();
    assert_eq!(presented_by(&snapshot), [leaf, ca.intermediate_der()]);
    assert_eq!(snapshot.leaf_sha256(), &sha256(&presented_by(&snapshot)[0]));
    assert!(snapshot.warnings().is_empty(), "{:?}", snapshot.warnings());
}

fn presented_by(snapshot: &Snapshot) -> Vec<CertificateDer<'static>> {
    let config = snapshot.client_config();
    let resolver = &config.client_auth_cert_resolver;
    let schemes = [rustls::SignatureScheme::ECDSA_NISTP256_SHA256];
    resolver.resolve(&[], &schemes).unwrap().cert.clone()
}

fn sha256(der: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(der).into()
}

#[test]
fn roots_that_do_not_issue_the_leaf_are_refused_only_with_roots_issue_leaf() {
    let (ca, servers) = (TestCa::new(), TestCa::new());
    let material = || {
        let (leaf, key) = ca.leaf(noon(), MINUTE);
        let chain = vec![leaf, ca.intermediate_der()];
        CertMaterial::from_der(chain, key, vec![servers.root_der()]).unwrap()
    };
    build(material(), noon()).unwrap();
    let refused = build(material().roots_issue_leaf(), noon());
    assert!(matches!(refused, Err(MaterialError::Chain { .. })));
    build(ca.issue(noon(), MINUTE).roots_issue_leaf(), noon()).unwrap();
}

#[test]
fn renewal_is_checked_as_strictly_as_the_first_certificate() {
    let (ca, impostor) = (TestCa::new(), TestCa::new());
    let tls = policy(TlsSettings::new());
    let next = |material: CertMaterial, after: &Snapshot| {
        Snapshot::build(
            &Arc::new(material.roots_issue_leaf()),
            Some(after),
            noon(),
            &tls,
        )
    };
    let material = |by: &TestCa, issuer: &TestCa, root: &TestCa| {
        let (leaf, key) = by.leaf(noon(), MINUTE);
        let chain = vec![leaf, issuer.intermediate_der()];
        CertMaterial::from_der(chain, key, vec![root.root_der()]).unwrap()
    };
    let first = build(material(&ca, &ca, &ca).roots_issue_leaf(), noon()).unwrap();
    let second = next(material(&ca, &ca, &ca), &first).unwrap();
    for foreign in [
        material(&impostor, &ca, &ca),
        material(&impostor, &impostor, &ca),
        material(&ca, &ca, &impostor),
    ] {
        let refused = next(foreign, &second);
        assert!(matches!(refused, Err(MaterialError::Chain { .. })));
    }
    // The first one did not need to end in the roots.
    let servers_only = build(material(&ca, &ca, &impostor), noon()).unwrap();
    let refused = next(material(&ca, &ca, &impostor), &servers_only);
    assert!(matches!(refused, Err(MaterialError::Chain { .. })));
}

#[test]
fn name_constraints_of_a_root_hold_for_renewed_names_too() {
    let ca = TestCa::bound_to("app.test");
    let tls = policy(TlsSettings::new());
    let first = build(ca.issue(noon(), MINUTE).roots_issue_leaf(), noon()).unwrap();
    let (leaf, key) = ca.leaf_named("other.test");
    let chain = vec![leaf, ca.intermediate_der()];
    let material = CertMaterial::from_der(chain, key, vec![ca.root_der()]).unwrap();
    let material = Arc::new(material.roots_issue_leaf());
    let refused = Snapshot::build(&material, Some(&first), noon(), &tls);
    assert!(matches!(refused, Err(MaterialError::Chain { .. })));
}

#[test]
fn validity_is_that_of_the_whole_chain() {
    let ca = TestCa::new();
    let at = |now| build(ca.issue(noon(), MINUTE), now);
    // Our clock may be the wrong one: it can be used, for its whole lifetime from here on.
    let early = at(noon() - MINUTE).unwrap();
    assert_eq!(early.usable_lifetime().length(), MINUTE);
    let late = at(noon() + MINUTE).unwrap_err();
    assert!(matches!(late, MaterialError::Expired { .. }));
    assert!(!late.is_transient());
}

/// Scenario: T4
#[test]
fn issuer_that_expires_first_is_named() {
    // T4. The intermediate lives until the year 4096.
    let ca = TestCa::new();
    let beyond = MINUTE * 60 * 24 * 365 * 3_000;
    let snapshot = build(ca.issue(noon(), beyond), noon()).unwrap();
    assert!(snapshot.not_after() < noon() + beyond);
    assert_eq!(snapshot.limited_by(), Some("CN=test intermediate"));
    let error = build(ca.issue(noon(), beyond), snapshot.not_after()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("CN=test intermediate expired"),
        "{error}"
    );

    // In a renewal too.
    let material = Arc::new(ca.issue(noon(), beyond));
    let tls = policy(TlsSettings::new());
    let renewed = Snapshot::build(&material, Some(&snapshot), snapshot.not_after(), &tls);
    assert!(matches!(renewed, Err(MaterialError::Expired { .. })));

    // As with a CA that shortens the leaf's lifetime to its own.
    let cut = snapshot.not_after().duration_since(noon()).unwrap();
    let together = build(ca.issue(noon(), cut), noon()).unwrap();
    assert_eq!(together.limited_by(), Some("CN=test intermediate"));
    let sooner = build(ca.issue(noon(), cut - MINUTE), noon()).unwrap();
    assert_eq!(sooner.limited_by(), None);
}

/// Scenario: S8, N01
#[test]
fn self_signed_certificate_is_neither_presented_nor_trusted() {
    // S8: OpenSSL refuses a chain with a root in it that it does not trust.
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), MINUTE);
    let chain = vec![leaf, ca.intermediate_der(), ca.root_der()];
    let material = CertMaterial::from_der(chain.clone(), key.clone_key(), vec![ca.root_der()]);
    let snapshot = build(material.unwrap(), noon()).unwrap();
    assert_eq!(presented_by(&snapshot), chain[..2]);

    // The chain brought the root along; as a trust root only another one was given.
    let other = TestCa::new();
    let material = CertMaterial::from_der(chain, key, vec![other.root_der()]).unwrap();
    assert!(build(material.roots_issue_leaf(), noon()).is_err());
}

/// Scenario: H1
#[test]
fn debug_never_prints_the_key() {
    // H1, for everything here that holds one.
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(noon(), MINUTE);
    let secret = key.secret_der().to_vec();
    let chain = vec![leaf, ca.intermediate_der()];
    let material = CertMaterial::from_der(chain, key, vec![ca.root_der()]).unwrap();
    let mut shown = format!("{material:?}");
    let snapshot = build(material, noon()).unwrap();
    shown += &format!("{snapshot:?}");

    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{secret:?}");
    assert!(shown.contains("app.test"), "the facts are there: {shown}");
    for window in [&hex[..16], list.trim_matches(['[', ']'])] {
        assert!(!shown.contains(window), "{shown}");
    }
}

/// Scenario: H1
#[test]
fn errors_of_a_mangled_key_quote_none_of_it() {
    let ca = TestCa::new();
    let pem = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0 !secret! \n-----END PRIVATE KEY-----\n";
    let root = format!("{:?}", ca.root_der());
    for key in [pem, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n", "!secret!"] {
        let error = CertMaterial::from_pem("", key, &root).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("secret") && !shown.contains("c2VjcmV0"),
            "{shown}"
        );
    }
}

#[test]
fn server_without_any_name_for_clients_to_verify_is_refused_with_the_remedy() {
    let ca = TestCa::new();
    let outcome = |names: Vec<rcgen::SanType>, usage| {
        let (leaf, key) = ca.leaf_with(names);
        let material = CertMaterial::from_der(vec![leaf], key, vec![ca.root_der()]).unwrap();
        let policy = policy_for(TlsSettings::new(), usage);
        Snapshot::build(&Arc::new(material), None, noon(), &policy)
            .map(|snapshot| snapshot.warnings().to_vec())
            .map_err(|error| error.to_string())
    };
    let text = "CN=app has no DNS name, IP address or URI as subject alternative name, so that no \
                client accepts it as a server's: request it with the names that clients dial";
    let mail = || rcgen::SanType::Rfc822Name("app@app.test".try_into().unwrap());
    for names in [vec![], vec![mail()]] {
        assert_eq!(outcome(names.clone(), Usage::Server), Err(text.to_owned()));
        assert_eq!(outcome(names.clone(), Usage::Client), Ok(vec![]));
        assert_eq!(outcome(names, Usage::Both), Ok(vec![text.to_owned()]));
    }
    for name in [
        rcgen::SanType::DnsName("app.test".try_into().unwrap()),
        rcgen::SanType::IpAddress([10, 0, 0, 7].into()),
        rcgen::SanType::URI("spiffe://app.test/app".try_into().unwrap()),
    ] {
        assert_eq!(outcome(vec![name, mail()], Usage::Server), Ok(vec![]));
    }
}

#[test]
fn leaf_that_is_for_nothing_it_is_used_for_is_refused_and_both_are_named() {
    let ca = TestCa::new();
    let roots = || vec![ca.root_der()];
    let outcome = |purpose, usage| {
        let (leaf, key) = ca.leaf_for(purpose);
        let material = CertMaterial::from_der(vec![leaf], key, roots()).unwrap();
        let policy = policy_for(TlsSettings::new(), usage);
        Snapshot::build(&Arc::new(material), None, noon(), &policy)
            .map(|snapshot| snapshot.warnings().len())
            .map_err(|error| error.to_string())
    };
    let server = || rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    let client = || rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let refused = outcome(server(), Usage::Client).unwrap_err();
    assert_eq!(
        refused,
        "the extended key usage of CN=app allows serverAuth, but it is used as a TLS client (clientAuth)"
    );
    let refused = outcome(client(), Usage::Server).unwrap_err();
    assert!(refused.contains("allows clientAuth") && refused.contains("a TLS server"));
    assert_eq!(outcome(server(), Usage::Server), Ok(0));
    assert_eq!(outcome(client(), Usage::Client), Ok(0));
    assert_eq!(outcome(client(), Usage::Both), Ok(1));
    assert_eq!(outcome(server(), Usage::Both), Ok(1));
    let other = outcome(rcgen::ExtendedKeyUsagePurpose::CodeSigning, Usage::Both);
    assert!(other.unwrap_err().contains("allows codeSigning"));
    assert_eq!(
        outcome(rcgen::ExtendedKeyUsagePurpose::Any, Usage::Both),
        Ok(0)
    );
}

#[test]
fn material_without_roots_is_refused_only_where_nothing_else_verifies_servers() {
    let ca = TestCa::new();
    let build = |settings, usage| {
        let (leaf, key) = ca.leaf(noon(), MINUTE);
        let material = CertMaterial::from_der(vec![leaf], key, vec![]).unwrap();
        let policy = policy_for(settings, usage);
        Snapshot::build(&Arc::new(material), None, noon(), &policy).map(drop)
    };
    for usage in [Usage::Client, Usage::Both] {
        let refused = build(TlsSettings::new(), usage);
        assert!(
            matches!(refused, Err(MaterialError::NoRoots)),
            "{refused:?}"
        );
        build(TlsSettings::new().server_roots([ca.root_der()]), usage).unwrap();
        // Its own verifier decides, and gets no roots.
        let own = |roots: Arc<RootCertStore>, _: &Arc<_>| {
            let text = format!("{} roots", roots.len());
            Err(rustls::Error::General(text))
        };
        let refused = build(TlsSettings::new().server_verifier(own), usage);
        let Err(MaterialError::ServerVerifier(error)) = refused else {
            panic!("{refused:?}");
        };
        assert!(error.to_string().contains("0 roots"), "{error}");
    }
    let (leaf, key) = ca.leaf_for(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let material = CertMaterial::from_der(vec![leaf], key, vec![]).unwrap();
    let policy = policy_for(TlsSettings::new(), Usage::Server);
    Snapshot::build(&Arc::new(material), None, noon(), &policy).unwrap();
}

#[test]
fn root_that_rustls_cannot_use_is_left_out_with_a_warning_while_there_are_others() {
    // Two extensions of one kind: a certificate for x509-parser, no root for webpki.
    let ca = TestCa::new();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "odd root");
    let constraints = || {
        let mut extension =
            rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x04, 0x01, 0x00]);
        extension.set_criticality(true);
        extension
    };
    params.custom_extensions = vec![constraints()];
    let odd = params.self_signed(&rcgen::KeyPair::generate().unwrap());
    let odd = odd.unwrap().der().clone();
    let with_roots = |roots| {
        let (leaf, key) = ca.leaf(noon(), MINUTE);
        let chain = vec![leaf, ca.intermediate_der()];
        build(CertMaterial::from_der(chain, key, roots).unwrap(), noon())
    };
    let snapshot = with_roots(vec![odd.clone(), ca.root_der()]).unwrap();
    let [warning] = snapshot.warnings() else {
        panic!("{:?}", snapshot.warnings());
    };
    assert!(
        warning.contains("CN=odd root cannot be a root"),
        "{warning}"
    );
    let refused = with_roots(vec![odd]);
    assert!(matches!(
        refused,
        Err(MaterialError::Certificate { index: 0, .. })
    ));
}
