//! A certificate by a certificate: a first one, then the live one.
//!
//! The role at `auth/cert` must trust both CAs: the one of the first certificate, and the one that
//! issues the live certificates.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example tls_certificate -- CHAIN KEY`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Secret, Vault};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [chain, key] = arguments.as_slice() else {
        return Err("usage: tls_certificate CHAIN KEY".into());
    };
    let vault = Vault::from_env()?
        .auth(Auth::tls_certificate(
            "app",
            Secret::file(chain),
            Secret::file(key),
        ))
        .build()?;
    let source = vault
        .pki("pki_int")
        .role("app")
        .common_name("app")
        .build()?;
    let live = LiveCert::start(source).await?;
    println!("{:?}", live.current()?);
    Ok(())
}
