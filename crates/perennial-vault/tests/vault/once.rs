//! Single fetches: the renewer's own retries would blur every count.

use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;

use perennial::{
    CertMaterial, CertSource, FetchContext, FetchReason, Fetched, LiveCert, SourceError,
};
use perennial_vault::{Auth, Vault, VaultBuilder, VaultPki, VaultPkiBuilder};

use crate::ca::{SECRET_ID, TOKEN};

/// Fetches one certificate.
pub(crate) async fn fetch(source: &Arc<VaultPki>) -> Result<CertMaterial, SourceError> {
    let context = FetchContext::new(FetchReason::Due, None);
    match source.fetch(context).await? {
        Fetched::Certificate(material) => Ok(material),
        other => panic!("not a certificate: {other:?}"),
    }
}

/// Publishes a certificate, as the renewer does once it is accepted.
pub(crate) fn publish(source: &VaultPki, material: CertMaterial) -> LiveCert {
    let live = LiveCert::fixed(material).unwrap();
    source.published(&live.current().unwrap());
    live
}

/// A Vault with an AppRole login.
pub(crate) fn vault(address: &str) -> VaultBuilder {
    Vault::builder(address).auth(Auth::approle("role", SECRET_ID))
}

/// A source of this Vault.
pub(crate) fn pki(vault: VaultBuilder) -> VaultPkiBuilder {
    app(&vault.build().unwrap())
}

pub(crate) fn app(vault: &Vault) -> VaultPkiBuilder {
    vault.pki("pki").role("app").common_name("app")
}

pub(crate) fn pki_with_token(address: &str) -> VaultPkiBuilder {
    pki(vault(address).auth(Auth::token(TOKEN)))
}

pub(crate) fn built(vault: VaultBuilder) -> Arc<VaultPki> {
    Arc::new(pki(vault).build().unwrap())
}

pub(crate) fn with(address: &str, auth: Auth) -> Arc<VaultPki> {
    built(vault(address).auth(auth))
}

pub(crate) fn with_token(address: &str) -> Arc<VaultPki> {
    with(address, Auth::token(TOKEN))
}

pub(crate) fn with_approle(address: &str) -> Arc<VaultPki> {
    built(vault(address))
}

/// An error with all its causes, in both forms.
pub(crate) fn full_text(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("{error:?}");
    let mut next = Some(error);
    while let Some(error) = next {
        write!(text, "\n{error}").unwrap();
        next = error.source();
    }
    text
}
