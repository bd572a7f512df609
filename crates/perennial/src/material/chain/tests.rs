use std::cell::OnceCell;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::testing::noon;
use crate::tls::{default_provider, public_key};

pub(super) type Der = CertificateDer<'static>;

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

/// A CA: one name and one key, for which others may issue certificates too.
pub(super) struct Ca {
    pub(super) params: CertificateParams,
    pub(super) key: KeyPair,
    root: OnceCell<Der>,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self {
            params,
            key,
            root: OnceCell::new(),
        }
    }

    /// Its certificate by itself.
    pub(super) fn root(&self) -> Der {
        self.root.get_or_init(|| self.by(self)).clone()
    }

    /// Its certificate by that CA.
    pub(super) fn by(&self, issuer: &Self) -> Der {
        issuer.sign(&self.params, &self.key)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Der {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let signed = params.signed_by(key, &issuer).unwrap();
        signed.der().clone()
    }

    pub(super) fn ending(mut self, end: SystemTime) -> Self {
        self.params.not_after = end.into();
        self
    }

    /// A client's leaf for this key.
    pub(super) fn leaf(&self, key: &KeyPair) -> Der {
        self.sign(&client(), key)
    }
}

/// A client that is valid for a day from noon.
fn client() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "app");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = noon().into();
    params.not_after = (noon() + 24 * HOUR).into();
    params
}

pub(super) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(super) fn public(key: &KeyPair) -> PublicKey {
    of_der(PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

fn of_der(key: PrivateKeyDer<'static>) -> PublicKey {
    let provider = default_provider().unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    public_key(&*key).unwrap()
}

pub(super) fn present(
    chain: &[Der],
    roots: &[Der],
    key: &PublicKey,
) -> Result<Presented, MaterialError> {
    Delivered {
        chain,
        roots,
        key: Some(key),
        usage: Usage::Client,
        now: noon(),
        provider: &default_provider().unwrap(),
    }
    .presented()
}

/// Presents a chain without a warning.
pub(super) fn quietly(chain: &[Der], key: &KeyPair) -> Vec<Der> {
    let presented = present(chain, &[], &public(key)).unwrap();
    assert!(presented.warnings.is_empty(), "{:?}", presented.warnings);
    presented.chains.first
}

/// The only warning of a chain that is presented as it was delivered.
pub(super) fn warning(chain: &[Der], key: &PublicKey) -> String {
    let presented = present(chain, &[], key).unwrap();
    assert_eq!(presented.chains.first, chain);
    let [warning] = presented.warnings.as_slice() else {
        panic!("{:?}", presented.warnings);
    };
    warning.clone()
}

/// Scenario: N02
#[test]
fn duplicates_are_presented_once_and_unrelated_certificates_with_a_warning() {
    let (root, int, other) = (Ca::new("root"), Ca::new("int"), Ca::new("other"));
    let key = key();
    let leaf = int.leaf(&key);
    let (int, other) = (int.by(&root), other.by(&root));
    let list = |one: &[&Der]| one.iter().map(|der| (*der).clone()).collect::<Vec<_>>();
    let plain = list(&[&leaf, &int]);
    assert_eq!(
        quietly(&list(&[&leaf, &int, &int, &root.root()]), &key),
        plain
    );
    assert_eq!(quietly(&list(&[&leaf, &leaf, &int]), &key), plain);
    let warning = warning(&list(&[&leaf, &int, &other]), &public(&key));
    assert!(warning.starts_with("CN=other issued neither"), "{warning}");
}

/// Scenario: N01, N04
#[test]
fn path_is_presented_first_whatever_the_order_of_delivery_and_no_root_is() {
    let (root, int, sub) = (Ca::new("root"), Ca::new("int"), Ca::new("sub"));
    let key = key();
    let leaf = sub.leaf(&key);
    let (by_root, below) = (int.by(&root), sub.by(&int));
    let path = [leaf.clone(), below.clone(), by_root.clone()];
    let reversed = [leaf.clone(), by_root.clone(), below.clone()];
    assert_eq!(quietly(&reversed, &key), path);
    let between = [leaf.clone(), root.root(), by_root.clone(), below.clone()];
    assert_eq!(quietly(&between, &key), path);
    let leaf_last = [root.root(), below.clone(), by_root.clone(), leaf.clone()];
    assert_eq!(quietly(&leaf_last, &key), path);

    // Old and new certificate of one intermediate, and one by another root: all are presented.
    let renewed = int.by(&root);
    let both = [
        leaf.clone(),
        below.clone(),
        by_root.clone(),
        renewed.clone(),
    ];
    assert_eq!(quietly(&both, &key), both);
    let root_b = Ca::new("root b");
    let crossed = int.by(&root_b);
    let with_roots = [
        leaf.clone(),
        by_root.clone(),
        root.root(),
        crossed.clone(),
        root_b.root(),
        below.clone(),
    ];
    assert_eq!(quietly(&with_roots, &key), [leaf, below, by_root, crossed]);
}

/// Scenario: N01
#[test]
fn each_path_can_be_presented_first_for_a_server_that_trusts_its_root_alone() {
    let (a, b, int, sub) = (Ca::new("a"), Ca::new("b"), Ca::new("int"), Ca::new("sub"));
    let key = key();
    let chain = [sub.leaf(&key), sub.by(&int), int.by(&a), int.by(&b)];
    let chains = present(&chain, &[], &public(&key)).unwrap().chains;
    assert_eq!(chains.first, chain);
    let [(issuer, other)] = chains.others.as_slice() else {
        panic!("{:?}", chains.others);
    };
    let [leaf, sub, by_a, by_b] = &chain;
    assert_eq!(*other, [leaf, sub, by_b, by_a].map(Clone::clone));
    let root = Certificate::from_der(&b.root()).unwrap();
    assert_eq!(issuer, root.folded_issuer());
}

#[test]
fn leaf_is_the_certificate_of_our_key_and_of_several_the_first_that_is_valid_now() {
    let int = Ca::new("int");
    let key = key();
    let issue = |from: SystemTime, to: SystemTime, purpose| {
        let mut params = client();
        params.not_before = from.into();
        params.not_after = to.into();
        params.extended_key_usages = vec![purpose];
        int.sign(&params, &key)
    };
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    let expired = issue(noon() - 2 * HOUR, noon() - HOUR, client());
    let early = issue(noon() + HOUR, noon() + 2 * HOUR, client());
    let server = issue(noon(), noon() + HOUR, ExtendedKeyUsagePurpose::ServerAuth);
    let (valid, another) = (
        issue(noon(), noon() + HOUR, client()),
        issue(noon(), noon() + HOUR, client()),
    );
    let foreign = int.leaf(&KeyPair::generate().unwrap());
    let first = |chain: &[&Der]| {
        let chain: Vec<Der> = chain.iter().map(|der| (*der).clone()).collect();
        present(&chain, &[], &public(&key)).map(|presented| presented.chains.first[0].clone())
    };
    let found = first(&[&foreign, &expired, &early, &server, &valid, &another]);
    assert_eq!(found.unwrap(), valid);
    assert_eq!(first(&[&expired, &early]).unwrap(), early);
    let refused = first(&[&expired, &expired]);
    assert!(matches!(refused, Err(MaterialError::Expired { .. })));
    let refused = first(&[&expired, &server]);
    assert!(matches!(refused, Err(MaterialError::WrongUsage { .. })));
    let refused = first(&[&foreign, &int.by(&int)]).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the private key does not match the certificate CN=app nor any other of the chain's 2"
    );

    // A signer that does not reveal its key: the first one.
    let chain = [valid.clone(), int.by(&int)];
    let delivered = Delivered {
        chain: &chain,
        roots: &[],
        key: None,
        usage: Usage::Client,
        now: noon(),
        provider: &default_provider().unwrap(),
    };
    assert_eq!(delivered.presented().unwrap().chains.first, [valid]);
}

/// Scenario: N06
#[test]
fn issuer_whose_name_is_encoded_in_another_way_is_found() {
    let table: [(DnValue, DnValue); 5] = [
        (
            "Example sub".into(),
            DnValue::PrintableString("Example sub".try_into().unwrap()),
        ),
        (
            "Example sub".into(),
            DnValue::BmpString("Example sub".try_into().unwrap()),
        ),
        (
            "Exämple".into(),
            DnValue::BmpString("Exämple".try_into().unwrap()),
        ),
        ("Example sub".into(), " EXAMPLE   Sub ".into()),
        (
            "Example sub".into(),
            DnValue::Ia5String("example sub".try_into().unwrap()),
        ),
    ];
    for (as_issuer, as_subject) in table {
        let (root, mut int) = (Ca::new("root"), Ca::new(""));
        let key = key();
        let named = |int: &mut Ca, name: &DnValue| {
            int.params.distinguished_name = rcgen::DistinguishedName::new();
            let dn = &mut int.params.distinguished_name;
            dn.push(DnType::CommonName, name.clone());
        };
        named(&mut int, &as_issuer);
        let leaf = int.leaf(&key);
        named(&mut int, &as_subject);
        let chain = [leaf.clone(), root.root(), int.by(&root)];
        let presented = quietly(&chain, &key);
        assert_eq!(presented.len(), 2, "{as_subject:?}");
        assert_eq!(
            roots_of_chain(&chain, &default_provider().unwrap()).unwrap(),
            [root.root()]
        );
    }
    // And other names are not.
    let (int, other) = (Ca::new("Example sub"), Ca::new("Examplesub"));
    let key = key();
    let chain = [int.leaf(&key), other.by(&Ca::new("root"))];
    let words = warning(&chain, &public(&key));
    assert!(words.contains("issued neither"), "{words}");
}

/// Scenario: N07
#[test]
fn critical_extension_that_rustls_does_not_know_is_a_warning() {
    let int = Ca::new("int");
    let key = key();
    let mut params = client();
    let mut policies = CustomExtension::from_oid_content(
        &[2, 5, 29, 32],
        vec![0x30, 0x07, 0x30, 0x05, 0x06, 0x03, 0x2a, 0x03, 0x04],
    );
    policies.set_criticality(true);
    params.custom_extensions = vec![policies];
    let words = warning(&[int.sign(&params, &key)], &public(&key));
    assert_eq!(
        words,
        "CN=app has the critical extension certificatePolicies, which some servers refuse"
    );
}

/// Scenario: N13
#[test]
fn validity_that_begins_before_1970_is_accepted() {
    let int = Ca::new("int");
    let key = key();
    let mut params = client();
    params.not_before = date_time_ymd(1950, 1, 1);
    let leaf = int.sign(&params, &key);
    let presented = present(std::slice::from_ref(&leaf), &[], &public(&key)).unwrap();
    assert!(presented.not_before < SystemTime::UNIX_EPOCH);
    assert_eq!(quietly(std::slice::from_ref(&leaf), &key), [leaf]);
}

/// Certificates that rcgen does not make; OpenSSL made them, for the key in `app.key`.
fn odd(file: &str) -> (Vec<Der>, PublicKey) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/odd/");
    let chain = CertificateDer::pem_file_iter(format!("{folder}{file}"));
    let chain = chain.unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{folder}app.key"));
    (chain, of_der(key.unwrap()))
}

/// Scenario: N08
#[test]
fn certificate_of_version_1_is_a_warning() {
    let (chain, key) = odd("v1.pem");
    let words = warning(&chain, &key);
    assert!(
        words.starts_with("CN=app is a version 1 certificate"),
        "{words}"
    );
}

/// Scenario: N15
#[test]
fn intermediate_whose_kind_of_key_the_provider_does_not_know_is_a_warning() {
    for kind in ["brainpool", "ed448", "rsa-pss"] {
        let (chain, key) = odd(&format!("{kind}.pem"));
        let words = warning(&chain, &key);
        let expected =
            format!("the signature of CN=app by O=Example, CN=Sub {kind} was not verified");
        assert!(words.starts_with(&expected), "{words}");
        let provider = default_provider().unwrap();
        assert_eq!(roots_of_chain(&chain, &provider).unwrap(), [] as [Der; 0]);
    }
}

/// Scenario: N15
#[test]
fn root_whose_own_signature_cannot_be_verified_is_not_presented_and_never_trusted() {
    let (chain, key) = odd("ed448-root.pem");
    let presented = present(&chain, &[], &key).unwrap();
    assert_eq!(presented.chains.first, chain[..2]);
    let provider = default_provider().unwrap();
    assert_eq!(roots_of_chain(&chain, &provider).unwrap(), [] as [Der; 0]);
}

/// Scenario: N01
#[test]
fn certificate_of_a_key_rollover_is_presented_and_never_a_root() {
    // One name, two keys: the old one signs the new one's certificate, which issues itself.
    let (old, new) = (Ca::new("root"), Ca::new("root"));
    let key = key();
    let (leaf, rollover) = (new.leaf(&key), new.by(&old));
    assert!(Certificate::from_der(&rollover).unwrap().is_self_issued());
    let chain = [leaf.clone(), rollover.clone(), old.root()];
    assert_eq!(quietly(&chain, &key), [leaf, rollover]);
    let provider = default_provider().unwrap();
    assert_eq!(roots_of_chain(&chain, &provider).unwrap(), [old.root()]);
}

/// Scenario: N01
#[test]
fn roots_of_a_chain_are_those_in_which_its_own_paths_end() {
    let (a, b, int) = (Ca::new("a"), Ca::new("b"), Ca::new("int"));
    let (stranger, namesake) = (Ca::new("stranger"), Ca::new("a"));
    let leaf = int.leaf(&key());
    let chain = [
        leaf,
        int.by(&a),
        a.root(),
        int.by(&b),
        b.root(),
        stranger.root(),
        namesake.root(),
    ];
    let roots = |chain: &[Der]| roots_of_chain(chain, &default_provider().unwrap()).unwrap();
    assert_eq!(roots(&chain), [a.root(), b.root()]);
    // An intermediate that only names the stranger does not lead to it.
    let forged = [
        chain[0].clone(),
        Ca::new("int").by(&stranger),
        stranger.root(),
    ];
    assert_eq!(roots(&forged), [] as [Der; 0]);
    // A CA's other certificates for its name and key count, a leaf's do not.
    assert_eq!(
        roots(&[int.by(&a), a.root(), int.by(&b), b.root()]),
        [a.root(), b.root()]
    );
    let own = key();
    let leaves = [int.leaf(&own), stranger.leaf(&own)];
    let chain = [
        &leaves[0],
        &leaves[1],
        &int.by(&a),
        &a.root(),
        &stranger.root(),
    ];
    assert_eq!(roots(&chain.map(Clone::clone)), [a.root()]);
    // A CA's own certificate is the end of its path, a self-signed leaf is not.
    assert_eq!(roots(&[a.root()]), [a.root()]);
    let leaf = client().self_signed(&own).unwrap();
    assert_eq!(roots(&[leaf.der().clone(), a.root()]), [] as [Der; 0]);
}

#[test]
fn issuer_that_signed_with_another_key_is_presented_with_a_warning() {
    let (root, int, impostor) = (Ca::new("root"), Ca::new("int"), Ca::new("int"));
    let key = key();
    let words = warning(&[int.leaf(&key), impostor.by(&root)], &public(&key));
    assert_eq!(
        words,
        "CN=app was not signed by the key of CN=int, which was delivered as its issuer"
    );
}

/// Scenario: T4
#[test]
fn issuer_that_ends_first_shortens_the_lifetime_only_where_no_other_path_is_left() {
    let (root, root_b, other) = (Ca::new("root"), Ca::new("root b"), Ca::new("other root"));
    let end = noon() + HOUR;
    let mut int = Ca::new("int").ending(end);
    let key = key();
    let leaf = int.leaf(&key);
    let short = int.by(&root);
    int.params.not_after = (noon() + 100 * HOUR).into();
    let (long, crossed) = (int.by(&root), int.by(&root_b));
    let until = |chain: &[&Der], roots: &[Der]| {
        let chain: Vec<Der> = chain.iter().map(|der| (*der).clone()).collect();
        let presented = present(&chain, roots, &public(&key)).unwrap();
        let hours = presented.not_after.duration_since(noon()).unwrap();
        let limited = presented.limited_by.is_some();
        (hours.as_secs() / 3_600, limited, presented.warnings.len())
    };
    assert_eq!(until(&[&leaf, &short], &[]), (1, true, 0));
    assert_eq!(until(&[&leaf, &short, &long], &[]), (24, false, 1));
    assert_eq!(until(&[&leaf, &crossed, &short], &[]), (24, false, 1));
    // A root that is there ends a path before its cross-signed certificate does.
    let bridge = {
        let mut bridge = Ca::new("root b");
        bridge.key = KeyPair::from_pem(&root_b.key.serialize_pem()).unwrap();
        bridge.ending(end).by(&other)
    };
    assert_eq!(until(&[&leaf, &crossed, &bridge], &[]), (1, true, 0));
    assert_eq!(
        until(&[&leaf, &crossed, &bridge], &[root_b.root()]),
        (24, false, 1)
    );
    assert_eq!(
        until(&[&leaf, &crossed, &bridge, &root_b.root()], &[]),
        (24, false, 1)
    );
    assert_eq!(
        until(&[&leaf, &crossed, &bridge], &[Ca::new("root b").root()]),
        (1, true, 0)
    );
}
