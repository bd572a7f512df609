//! A certificate with the service account token of a pod.
//!
//! The file is the projected token, which Kubernetes replaces about every hour. `Auth::kubernetes`
//! uses the one that every pod has.
//!
//! `VAULT_ADDR=https://vault.example:8200 VAULT_CACERT=ca.crt \
//! cargo run --example kubernetes -- TOKEN_FILE`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use perennial::LiveCert;
use perennial_vault::{Auth, Vault};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [file] = arguments.as_slice() else {
        return Err("usage: kubernetes TOKEN_FILE".into());
    };
    let vault = Vault::from_env()?
        .auth(Auth::kubernetes_at("app", file))
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
