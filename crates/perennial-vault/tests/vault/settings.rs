//! `build()`: what it refuses, and how it says so.

use std::time::Duration;

use perennial::CertSource;
use perennial_vault::{Auth, BuildError, KeyType, Secret, VaultPkiBuilder};

use crate::ca::{Ca, SECRET_ID, TOKEN};
use crate::once::{builder, told};

const ADDRESS: &str = "https://vault.example:8200";

fn refused(builder: VaultPkiBuilder) -> String {
    told(&builder.build().unwrap_err())
}

#[test]
fn settings_of_the_way_to_vault_are_refused_beside_another_source() {
    let ca = Ca::new("root").pem();
    let first = builder(ADDRESS).ca_pem(&ca).build().unwrap();
    let another = || {
        first
            .another()
            .mount("pki")
            .role("jobs")
            .common_name("jobs")
    };
    another().build().unwrap();
    let second = Duration::from_secs(1);
    let table = [
        (another().address(ADDRESS), "address is"),
        (another().ca_pem(&ca), "ca_pem is"),
        (another().namespace("team1"), "namespace is"),
        (another().auth(Auth::token(TOKEN)), "auth is"),
        (another().connect_timeout(second), "connect_timeout is"),
        (another().request_timeout(second), "request_timeout is"),
        (
            another().provider(rustls::crypto::aws_lc_rs::default_provider().into()),
            "provider is",
        ),
        (
            first.another().mount("pki").role("jobs"),
            "common_name is not set",
        ),
    ];
    for (builder, expected) in table {
        let text = refused(builder);
        assert!(text.contains(&format!("\n{expected}")), "{text}");
    }
}

#[test]
fn unusable_settings_are_refused_with_their_field() {
    let base = || builder(ADDRESS).ca_pem(Ca::new("root").pem());
    base().build().unwrap();
    let table = [
        (builder("vault.example:8200"), "address is"),
        (builder("http://vault.example:8200"), "address is"),
        (builder("http://10.0.0.1:8200"), "address is"),
        (builder("ftp://localhost"), "address is"),
        (builder("https://vault.example/?x=y"), "address is"),
        (builder("https://u:p@vault.example"), "address holds"),
        (base().mount(""), "mount is not set"),
        (base().mount("pki//x"), "mount is"),
        (base().mount("../sys"), "mount is"),
        (base().mount("pki?x"), "mount is"),
        (base().mount("pki%2f.."), "mount is"),
        (base().role(""), "role is not set"),
        (base().role("a/b"), "role is"),
        (base().role(".."), "role is"),
        (base().common_name(""), "common_name is"),
        (base().common_name("a\nb"), "common_name is"),
        (base().dns_name("a b"), "dns_name is"),
        (base().uri(""), "uri is"),
        (base().issuer("a/b"), "issuer is"),
        (base().issuer(".."), "issuer is"),
        (base().issuer(""), "issuer is"),
        (
            base().issue().key_type(KeyType::EcP256),
            "key_type is \"EcP256\"",
        ),
        (base().issue().dns_name("a,b"), "dns_name is"),
        (base().issue().uri("spiffe://a,b"), "uri is"),
        (base().ttl(Duration::ZERO), "ttl is"),
        (base().ttl(Duration::from_millis(1_500)), "ttl is"),
        (base().namespace(""), "namespace is"),
        (base().namespace("a b"), "namespace is"),
        (base().connect_timeout(Duration::ZERO), "connect_timeout is"),
        (base().request_timeout(Duration::ZERO), "request_timeout is"),
        (base().ca_pem("no PEM"), "ca_pem is"),
        (base().server_roots_pem(""), "server_roots_pem is"),
        (base().auth(Auth::token("")), "auth token holds nothing"),
        (base().auth(Auth::token("\n")), "auth token holds nothing"),
        (
            base().auth(Auth::token("a\nb")),
            "auth token holds a control character at byte 1",
        ),
        (
            base().auth(Auth::token("s.ü")),
            "auth token holds a character",
        ),
        (
            base().auth(Auth::approle("", "x")),
            "auth role_id holds nothing",
        ),
        (
            base().auth(Auth::approle("x", "a\0b")),
            "auth secret_id holds a control character",
        ),
        (
            base().auth(Auth::approle("x", "y").login_mount("a b")),
            "login_mount is",
        ),
        (
            base().auth(Auth::approle_wrapped("x", "ü")),
            "auth wrapping token holds a character",
        ),
        (base().auth(Auth::jwt("a/b", "x")), "auth role is"),
        (base().auth(Auth::jwt("a", "")), "auth jwt holds nothing"),
        (
            base().auth(Auth::kubernetes_at("a", "")),
            "auth jwt holds an empty path",
        ),
        (base().auth(Auth::userpass("..", "x")), "auth user is"),
        (
            base().auth(Auth::userpass("a", "\r\n")),
            "auth password holds nothing",
        ),
        (
            base().auth(Auth::tls_certificate("app", "", "x")),
            "auth certificate holds nothing",
        ),
        (
            base().auth(Auth::tls_certificate("app", "x", "")),
            "auth certificate's key holds nothing",
        ),
    ];
    for (builder, words) in table {
        let text = refused(builder);
        assert!(text.contains(words), "{words}: {text}");
    }
    let nameless = perennial_vault::VaultPki::builder(ADDRESS)
        .auth(Auth::token(TOKEN))
        .mount("pki")
        .role("app");
    assert!(refused(nameless).contains("common_name is not set"));
}

#[test]
fn line_end_after_a_secret_is_not_part_of_it() {
    for end in ["", "\n", "\r\n"] {
        let ca = Ca::new("root").pem();
        let with = |auth| builder(ADDRESS).ca_pem(&ca).auth(auth).build();
        with(Auth::token(format!("{TOKEN}{end}"))).unwrap();
        with(Auth::approle(
            format!("r{end}"),
            format!("{SECRET_ID}{end}"),
        ))
        .unwrap();
    }
}

#[test]
fn plain_http_is_taken_for_this_machine_alone() {
    for address in [
        "http://localhost:8200",
        "http://127.0.0.1:8200",
        "http://[::1]:8200",
    ] {
        builder(address).build().unwrap();
    }
}

#[test]
fn debug_shows_no_secret() {
    let bad = format!("{TOKEN}\u{1}");
    let error: BuildError = builder(ADDRESS)
        .auth(Auth::token(&bad))
        .build()
        .unwrap_err();
    let password = format!("https://u:{TOKEN}@vault.example:notaport");
    let shown = [
        format!("{:?}", Auth::token(TOKEN)),
        format!("{:?}", Auth::approle("role", SECRET_ID)),
        format!("{:?}", Auth::approle_wrapped("role", TOKEN)),
        format!("{:?}", Auth::jwt("role", TOKEN)),
        format!("{:?}", Auth::userpass("user", SECRET_ID)),
        format!("{:?}", Auth::tls_certificate("role", TOKEN, SECRET_ID)),
        format!("{:?}", Secret::from(TOKEN)),
        format!("{:?}", builder(ADDRESS)),
        format!("{:?}", builder(&password)),
        format!("{:?}", builder("http://localhost").build().unwrap()),
        told(&error),
        told(&builder(&password).build().unwrap_err()),
        told(
            &builder(ADDRESS)
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
fn request_fingerprint_tells_sources_apart() {
    let of = |builder: VaultPkiBuilder| builder.build().unwrap().request().unwrap();
    let base = || builder("http://localhost:1");
    assert_eq!(of(base()), of(base().auth(Auth::token(TOKEN))));
    assert_ne!(of(base()), of(base().namespace("team1")));
    assert_ne!(of(base()), of(base().dns_name("a")));
    assert_ne!(of(base()), of(builder("http://localhost:2")));
}
