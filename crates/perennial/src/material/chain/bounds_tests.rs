use rcgen::{DnType, KeyIdMethod};

use super::graph::{FRAME, MOST_BYTES, MOST_CHECKS};
use super::node::MOST_READ;
use super::roots_of_chain;
use super::tests::{Ca, Der, key, present, public, quietly, warning};
use crate::testing::noon;
use crate::tls::default_provider;

#[test]
fn many_roots_in_a_chain_keep_no_signature_from_being_verified() {
    let (root, int) = (Ca::new("root"), Ca::new("int"));
    let key = key();
    let mut chain: Vec<Der> = (0..MOST_CHECKS + 5)
        .map(|n| Ca::new(&format!("other {n}")).root())
        .collect();
    let expected = [int.leaf(&key), int.by(&root)];
    chain.extend(expected.iter().cloned());
    assert_eq!(quietly(&chain, &key), expected);
}

/// Their links are searched: they grow as the square of the number.
#[test]
fn set_of_more_certificates_than_any_chain_has_is_refused() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let key = key();
    let crossed = [a.by(&b), b.by(&a)];
    let copies = (0..MOST_READ).map(|n| {
        let mut der = crossed[n % 2].to_vec();
        let end = der.len() - 1;
        der[end] ^= (n / 2) as u8;
        Der::from(der)
    });
    let mut chain: Vec<Der> = copies.collect();
    assert!(roots_of_chain(&chain, &default_provider().unwrap()).is_ok());
    chain.push(a.leaf(&key));
    let refused = present(&chain, &[], &public(&key)).unwrap_err();
    let words = refused.to_string();
    assert!(words.contains("more than 256 certificates"), "{words}");
}

#[test]
fn issuer_in_an_error_is_escaped_and_cut() {
    let (root, mut int) = (Ca::new("root"), Ca::new("").ending(noon()));
    let name = format!("evil\nforged line {}", "x".repeat(200));
    int.params.distinguished_name.push(DnType::CommonName, name);
    let key = key();
    let expired = present(&[int.leaf(&key), int.by(&root)], &[], &public(&key));
    let words = expired.unwrap_err().to_string();
    assert!(
        words.contains("expired") && !words.contains('\n'),
        "{words}"
    );
    assert!(words.len() < 200, "{words}");
}

#[test]
fn no_more_than_64_certificates_and_64_kib_are_presented_and_the_path_is_among_them() {
    let root = Ca::new("root");
    let int = Ca::new("int");
    let key = key();
    let leaf = int.leaf(&key);
    let others = |length: usize| {
        (0..80).map(move |n| {
            let mut other = Ca::new(&format!("other {n}"));
            other.params.key_identifier_method = KeyIdMethod::PreSpecified(vec![0; length]);
            other
        })
    };
    for (length, expected) in [(20, 64), (2_000, 30)] {
        let mut chain: Vec<Der> = others(length).map(|other| other.by(&root)).collect();
        chain.extend([int.by(&root), leaf.clone()]);
        let presented = present(&chain, &[], &public(&key)).unwrap();
        assert_eq!(
            presented.chains.first[..2],
            [leaf.clone(), chain[80].clone()]
        );
        let size: usize = presented
            .chains
            .first
            .iter()
            .map(|der| der.len() + FRAME)
            .sum();
        let count = presented.chains.first.len();
        assert!(
            size <= MOST_BYTES && count <= expected && count > 20,
            "{count}"
        );
        let words = presented.warnings.join("; ");
        let left_out = format!("{} certificates of the chain are not presented", 82 - count);
        assert!(words.contains(&left_out), "{words}");
    }
}

#[test]
fn subject_in_a_warning_is_escaped_and_cut() {
    let mut int = Ca::new("");
    let name = format!("evil\nforged line {}", "x".repeat(200));
    int.params.distinguished_name.push(DnType::CommonName, name);
    let key = key();
    let words = warning(
        &[Ca::new("int").leaf(&key), int.by(&Ca::new("root"))],
        &public(&key),
    );
    assert!(words.starts_with(r"CN=evil\nforged line xxx"), "{words}");
    assert!(
        words.len() < 200 && !words.contains('\n') && words.contains('…'),
        "{words}"
    );
}
