//! `build()`: which settings it refuses, and the text of the error.

use std::time::Duration;

use perennial::{CertSource, SourceErrorKind};
use perennial_vault::{Auth, KeyType, Secret, Vault, VaultError, VaultPkiBuilder};

use crate::ca::{Ca, SECRET_ID, TOKEN};
use crate::once::{app, full_text, pki, vault};

const ADDRESS: &str = "https://vault.example:8200";

fn refusal<T: std::fmt::Debug>(built: Result<T, VaultError>) -> String {
    let error = built.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert_eq!((error.operation(), error.status()), (None, None));
    full_text(&error)
}

#[test]
fn unusable_settings_of_a_vault_are_refused_with_their_field() {
    let base = || vault(ADDRESS).ca_pem(Ca::new("root").pem());
    drop(base().build().unwrap());
    let table = [
        (vault("vault.example:8200"), "invalid address"),
        (vault("http://vault.example:8200"), "invalid address"),
        (vault("http://10.0.0.1:8200"), "invalid address"),
        (vault("ftp://localhost"), "invalid address"),
        (vault("https://vault.example/?x=y"), "invalid address"),
        (
            vault("https://u:p@vault.example"),
            "invalid address: it holds a user",
        ),
        (base().address(ADDRESS), "invalid address"),
        (base().namespace(""), "invalid namespace"),
        (base().namespace("a b"), "invalid namespace"),
        (
            base().connect_timeout(Duration::ZERO),
            "invalid connect_timeout",
        ),
        (
            base().request_timeout(Duration::ZERO),
            "invalid request_timeout",
        ),
        (base().ca_pem("no PEM"), "invalid ca_pem"),
        (base().auth(Auth::token("")), "invalid auth token: empty"),
        (base().auth(Auth::token("\n")), "invalid auth token: empty"),
        (
            base().auth(Auth::token("a\nb")),
            "invalid auth token: control character at byte 1",
        ),
        (
            base().auth(Auth::token("s.ü")),
            "invalid auth token: a character",
        ),
        (
            base().auth(Auth::approle("", "x")),
            "invalid auth role_id: empty",
        ),
        (
            base().auth(Auth::approle("x", "a\0b")),
            "invalid auth secret_id: control character",
        ),
        (
            base().auth(Auth::approle("x", "y").login_mount("a b")),
            "invalid login_mount",
        ),
        (
            base().auth(Auth::approle_wrapped("x", "ü")),
            "invalid auth wrapping token: a character",
        ),
        (base().auth(Auth::jwt("a/b", "x")), "invalid auth role"),
        (base().auth(Auth::jwt("a", "")), "invalid auth jwt: empty"),
        (
            base().auth(Auth::kubernetes_at("a", "")),
            "invalid auth jwt: the path is empty",
        ),
        (base().auth(Auth::userpass("..", "x")), "invalid auth user"),
        (
            base().auth(Auth::userpass("a", "\r\n")),
            "invalid auth password: empty",
        ),
        (
            base().auth(Auth::tls_certificate("app", "", "x")),
            "invalid auth certificate: empty",
        ),
        (
            base().auth(Auth::tls_certificate("app", "x", "")),
            "invalid auth key: empty",
        ),
        (Vault::builder(ADDRESS), "auth is not set"),
    ];
    for (builder, words) in table {
        let text = refusal(builder.build());
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn unusable_settings_of_a_certificate_are_refused_with_their_field() {
    let vault = vault(ADDRESS)
        .ca_pem(Ca::new("root").pem())
        .build()
        .unwrap();
    let at = |mount: &str| vault.pki(mount).role("app").common_name("app");
    let base = || at("pki");
    base().build().unwrap();
    let table = [
        (at(""), "mount is not set"),
        (at("pki//x"), "invalid mount"),
        (at("../sys"), "invalid mount"),
        (at("pki?x"), "invalid mount"),
        (at("pki%2f.."), "invalid mount"),
        (base().role(""), "role is not set"),
        (base().role("a/b"), "invalid role"),
        (base().role(".."), "invalid role"),
        (base().common_name(""), "invalid common_name"),
        (base().common_name("a\nb"), "invalid common_name"),
        (base().dns_name("a b"), "invalid dns_name"),
        (base().uri(""), "invalid uri"),
        (base().issuer("a/b"), "invalid issuer"),
        (base().issuer(".."), "invalid issuer"),
        (base().issuer(""), "invalid issuer"),
        (
            base().issue().key_type(KeyType::EcP256),
            "invalid key_type \"EcP256\"",
        ),
        (base().issue().dns_name("a,b"), "invalid dns_name"),
        (base().issue().uri("spiffe://a,b"), "invalid uri"),
        (base().ttl(Duration::ZERO), "invalid ttl"),
        (base().ttl(Duration::from_millis(1_500)), "invalid ttl"),
        (base().server_roots_pem(""), "invalid server_roots_pem"),
        (vault.pki("pki").role("app"), "common_name is not set"),
    ];
    for (builder, words) in table {
        let text = refusal(builder.build());
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn line_end_after_a_secret_is_not_part_of_it() {
    for end in ["", "\n", "\r\n"] {
        let ca = Ca::new("root").pem();
        let with = |auth| vault(ADDRESS).ca_pem(&ca).auth(auth).build();
        drop(with(Auth::token(format!("{TOKEN}{end}"))).unwrap());
        let auth = Auth::approle(format!("r{end}"), format!("{SECRET_ID}{end}"));
        drop(with(auth).unwrap());
    }
}

#[test]
fn plain_http_is_accepted_only_for_this_machine() {
    for address in [
        "http://localhost:8200",
        "http://127.0.0.1:8200",
        "http://[::1]:8200",
    ] {
        drop(vault(address).build().unwrap());
    }
}

#[test]
fn debug_shows_no_secret() {
    let bad = format!("{TOKEN}\u{1}");
    let error = vault(ADDRESS).auth(Auth::token(&bad)).build().unwrap_err();
    let local = vault("http://localhost").build().unwrap();
    let password = format!("https://u:{TOKEN}@vault.example:notaport");
    let shown = [
        format!("{:?}", Auth::token(TOKEN)),
        format!("{:?}", Auth::approle("role", SECRET_ID)),
        format!("{:?}", Auth::approle_wrapped("role", TOKEN)),
        format!("{:?}", Auth::jwt("role", TOKEN)),
        format!("{:?}", Auth::userpass("user", SECRET_ID)),
        format!("{:?}", Auth::tls_certificate("role", TOKEN, SECRET_ID)),
        format!("{:?}", Secret::from(TOKEN)),
        format!("{:?}", vault(ADDRESS)),
        format!("{:?}", vault(&password)),
        format!("{local:?}"),
        format!("{:?}", app(&local)),
        format!("{:?}", app(&local).build().unwrap()),
        full_text(&error),
        full_text(&vault(&password).build().unwrap_err()),
        full_text(
            &vault(ADDRESS)
                .ca_pem(format!("-----BEGIN {TOKEN}"))
                .build()
                .unwrap_err(),
        ),
    ];
    for text in shown {
        assert!(!text.contains(TOKEN) && !text.contains(SECRET_ID), "{text}");
    }
}

#[test]
fn cache_key_distinguishes_sources() {
    let of = |source: VaultPkiBuilder| source.build().unwrap().cache_key().unwrap();
    let base = || vault("http://localhost:1");
    let key = of(pki(base()));
    assert_eq!(key, of(pki(base().auth(Auth::token(TOKEN)))));
    assert_ne!(key, of(pki(base().namespace("team1"))));
    assert_ne!(key, of(pki(base()).dns_name("a")));
    assert_ne!(key, of(pki(vault("http://localhost:2"))));
}
