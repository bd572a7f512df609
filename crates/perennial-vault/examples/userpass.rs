//! A certificate with a user name and a password in a file.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example userpass -- USER PASSWORD_FILE`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Secret, VaultPki};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [user, file] = arguments.as_slice() else {
        return Err("usage: userpass USER PASSWORD_FILE".into());
    };
    let source = VaultPki::from_env()?
        .auth(Auth::userpass(user, Secret::file(file)))
        .mount("pki_int")
        .role("app")
        .common_name("app")
        .build()?;
    let live = LiveCert::start(source).await?;
    println!("{:?}", live.current()?);
    Ok(())
}
