//! One fetch and no more: the renewer's own retries would blur every count.

use std::error::Error;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use perennial::{Ask, CertMaterial, CertSource, LiveCert, SourceError};
use perennial_vault::{Auth, VaultPki, VaultPkiBuilder};
use tokio::sync::oneshot;

use crate::ca::{SECRET_ID, TOKEN};

/// Fetches once, as the renewer does, and gives what came of it.
pub(crate) async fn fetch(source: &Arc<VaultPki>) -> Result<CertMaterial, SourceError> {
    let (sender, outcome) = oneshot::channel();
    let once = Once {
        source: Arc::clone(source),
        sender: Mutex::new(Some(sender)),
    };
    let _live = LiveCert::builder().start_lazy(once).unwrap();
    outcome.await.unwrap()
}

/// Hands the first outcome over and delivers nothing itself.
struct Once {
    source: Arc<VaultPki>,
    sender: Mutex<Option<oneshot::Sender<Result<CertMaterial, SourceError>>>>,
}

impl CertSource for Once {
    async fn fetch(&self, ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        let sender = self.sender.lock().unwrap().take();
        if let Some(sender) = sender {
            let outcome = self.source.fetch(ask).await;
            let _test_gone = sender.send(outcome);
        }
        Err(SourceError::not_configured("one fetch is all there is"))
    }
}

pub(crate) fn builder(address: &str) -> VaultPkiBuilder {
    VaultPki::builder(address)
        .auth(Auth::approle("role", SECRET_ID))
        .mount("pki")
        .role("app")
        .common_name("app")
}

pub(crate) fn with_token(address: &str) -> Arc<VaultPki> {
    Arc::new(builder(address).auth(Auth::token(TOKEN)).build().unwrap())
}

pub(crate) fn with(address: &str, auth: Auth) -> Arc<VaultPki> {
    Arc::new(builder(address).auth(auth).build().unwrap())
}

pub(crate) fn with_approle(address: &str) -> Arc<VaultPki> {
    Arc::new(builder(address).build().unwrap())
}

/// An error with all its causes, in both forms.
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("{error:?}");
    let mut next = Some(error);
    while let Some(error) = next {
        write!(text, "\n{error}").unwrap();
        next = error.source();
    }
    text
}
