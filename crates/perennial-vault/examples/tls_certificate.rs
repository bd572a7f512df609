//! A certificate by a certificate: one to begin with, then the one that is live.
//!
//! The role at `auth/cert` must trust both CAs: that of the certificate to begin with, and that of the
//! certificates which are issued.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example tls_certificate -- CHAIN KEY`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Secret, VaultPki};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [chain, key] = arguments.as_slice() else {
        return Err("usage: tls_certificate CHAIN KEY".into());
    };
    let source = VaultPki::from_env()?
        .auth(Auth::tls_certificate(
            "app",
            Secret::file(chain),
            Secret::file(key),
        ))
        .mount("pki_int")
        .role("app")
        .common_name("app")
        .build()?;
    let live = LiveCert::start(source).await?;
    println!("{:?}", live.current()?);
    Ok(())
}
