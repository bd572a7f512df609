//! A certificate by AppRole, with the secret_id in a response-wrapping token.
//!
//! The deployment makes the token with
//! `bao write -f -wrap-ttl=5m -field=wrapping_token auth/approle/role/app/secret-id`. For a plain
//! secret_id use `Auth::approle`.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example approle -- ROLE_ID WRAPPING_TOKEN_FILE`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Secret, Vault};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [role_id, file] = arguments.as_slice() else {
        return Err("usage: approle ROLE_ID WRAPPING_TOKEN_FILE".into());
    };
    let vault = Vault::from_env()?
        .auth(Auth::approle_wrapped(role_id, Secret::file(file)))
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
