use std::sync::Arc;
use std::time::SystemTime;

use proptest::prelude::*;
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::UnixTime;

use super::roots_of_chain;
use super::tests::{Ca, Der, HOUR, key, present, public, quietly};
use crate::testing::noon;
use crate::tls::default_provider;

#[test]
fn certificates_that_issued_each_other_are_presented() {
    let (a, b, int) = (Ca::new("a"), Ca::new("b"), Ca::new("int"));
    let key = key();
    let chain = [int.leaf(&key), int.by(&a), a.by(&b), b.by(&a)];
    assert_eq!(quietly(&chain, &key), chain);
}

/// A server that trusts one root of two CAs that certified each other finds the way to it.
#[test]
fn path_leads_to_a_root_and_not_back_where_it_came_from() {
    let (root, a, b) = (Ca::new("root"), Ca::new("a"), Ca::new("b"));
    let key = key();
    let [leaf, a_by_b, b_by_a, b_by_root] = [a.leaf(&key), a.by(&b), b.by(&a), b.by(&root)];
    let expected = [&leaf, &a_by_b, &b_by_root, &b_by_a].map(Clone::clone);
    let chain = [leaf, a_by_b, b_by_a, b_by_root];
    assert_eq!(quietly(&chain, &key), expected);
}

/// How a set is made of a path.
#[derive(Clone, Debug)]
struct Recipe {
    /// For each intermediate: is it certified by another root too?
    crossed: Vec<bool>,
    duplicates: Vec<prop::sample::Index>,
    strangers: usize,
    has_root: bool,
    order: Vec<u32>,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let crossed = prop::collection::vec(any::<bool>(), 0..4);
    let duplicates = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let order = prop::collection::vec(any::<u32>(), 24);
    (crossed, duplicates, 0usize..4, any::<bool>(), order).prop_map(
        |(crossed, duplicates, strangers, has_root, order)| Recipe {
            crossed,
            duplicates,
            strangers,
            has_root,
            order,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Scenario: N01, N02, N04
    #[test]
    fn every_set_that_holds_a_valid_path_is_presented_so_that_it_verifies(recipe in recipe()) {
        let (root, other) = (Ca::new("root"), Ca::new("other root"));
        let mut issuer = Ca::new("root");
        issuer.key = KeyPair::from_pem(&root.key.serialize_pem()).unwrap();
        let mut wanted = Vec::new();
        for (level, is_crossed) in recipe.crossed.iter().enumerate() {
            let int = Ca::new(&format!("int {level}"));
            wanted.push(int.by(&issuer));
            if *is_crossed {
                wanted.push(int.by(&other));
            }
            issuer = int;
        }
        let key = key();
        let leaf = issuer.leaf(&key);
        wanted.push(leaf.clone());
        // The second one bears a name of the path, and the third one the leaf's.
        for name in ["stranger", "int 0", "app"].into_iter().take(recipe.strangers) {
            wanted.push(Ca::new(name).by(&other));
        }
        let mut set = wanted.clone();
        set.extend(recipe.duplicates.iter().map(|index| index.get(&wanted).clone()));
        if recipe.has_root {
            set.push(root.root());
            set.push(other.root());
        }
        let mut set: Vec<_> = recipe.order.iter().zip(set).collect();
        set.sort_by_key(|(place, _)| **place);
        let set: Vec<Der> = set.into_iter().map(|(_, der)| der).collect();

        let presented = present(&set, &[], &public(&key)).unwrap();
        prop_assert_eq!(&presented.chains.first[0], &leaf);
        prop_assert_eq!(presented.chains.first.len(), wanted.len());
        prop_assert!(wanted.iter().all(|der| presented.chains.first.contains(der)));
        prop_assert_eq!(presented.not_after, noon() + 24 * HOUR);
        let mut store = RootCertStore::empty();
        store.add(root.root()).unwrap();
        let provider = default_provider().unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), Arc::clone(&provider));
        let now = UnixTime::since_unix_epoch(noon().duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let verified = verifier.build().unwrap().verify_client_cert(&leaf, &presented.chains.first[1..], now);
        prop_assert!(verified.is_ok(), "{:?}", verified);
        if recipe.has_root && !recipe.crossed.is_empty() {
            let roots = roots_of_chain(&presented_with(&leaf, &set), &provider).unwrap();
            prop_assert!(roots.contains(&root.root()));
            prop_assert_eq!(roots.contains(&other.root()), recipe.crossed.contains(&true));
        }
    }
}

/// The set, leaf first, as sources deliver it.
fn presented_with(leaf: &Der, set: &[Der]) -> Vec<Der> {
    let others = set.iter().filter(|der| *der != leaf);
    [leaf].into_iter().chain(others).cloned().collect()
}
