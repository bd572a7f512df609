use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use perennial::{Ask, CertMaterial, CertSource, Fingerprint, Snapshot, SourceError};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use vaultrs::api::EndpointResult;
use vaultrs::api::pki::responses::SignCertificateResponse;
use zeroize::Zeroizing;

use crate::answer::{self, Asked};
use crate::builder::VaultPkiBuilder;
use crate::error::{Failure, Step, VaultError};
use crate::outcome::Verdict;
use crate::request::CertRequest;
use crate::token::{Login, Token, Tokens};
use crate::transport::{Reply, Transport};

/// The PKI secrets engine of Vault or OpenBao, as a certificate source.
///
/// Each fetch makes a new P-256 key and has a role sign a request for it. The crate's front page
/// has an example.
///
/// A fetch fails with a [`SourceError`] whose cause is a [`VaultError`]: *denied* where role,
/// policy, credential or CA refuse, *invalid* where the answer or the server's certificate
/// cannot be used, *unavailable* where waiting alone can cure it: server unreachable, sealed,
/// without a leader, or throttling (its `Retry-After` is kept).
pub struct VaultPki {
    pub(crate) transport: Transport,
    pub(crate) tokens: Tokens,
    pub(crate) request: CertRequest,
    /// The names of `request`, ready for a signing request.
    pub(crate) params: CertificateParams,
    pub(crate) server_roots: Option<Vec<CertificateDer<'static>>>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) warnings: Warnings,
}

impl VaultPki {
    /// Starts with the address: `https://host:8200`, with a path if a proxy adds one.
    ///
    /// Plain `http` is taken only for this machine itself (`localhost`, `127.0.0.1`, `[::1]`).
    pub fn builder(address: impl Into<String>) -> VaultPkiBuilder {
        VaultPkiBuilder::new(address.into())
    }

    /// One certificate, with at most one login on the way.
    async fn ask(&self, current: Option<&Snapshot>) -> Result<CertMaterial, Failure> {
        let key = CertRequest::new_key().map_err(request_error)?;
        let (token, login) = self.tokens.ready(&self.transport, current).await?;
        let (reply, answer) = match self.sign(&key, &token).await {
            Err(failure) if failure.verdict == Verdict::TokenRefused && login == Login::Left => {
                tracing::debug!("vault refuses the token, logging in again");
                let token = self.tokens.another(&self.transport, current).await?;
                self.sign(&key, &token).await?
            }
            outcome => outcome?,
        };
        let asked = Asked {
            request: &self.request,
            server_roots: self.server_roots.as_deref(),
            server_now: reply.date(),
        };
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        answer::material(&answer, Zeroizing::new(key.into()), &asked).map_err(Failure::unusable)
    }

    async fn sign(
        &self,
        key: &KeyPair,
        token: &Arc<Token>,
    ) -> Result<(Reply, SignCertificateResponse), Failure> {
        let endpoint = self
            .request
            .endpoint(&self.params, key)
            .map_err(request_error)?;
        let reply = match self
            .transport
            .send(Step::Sign, &endpoint, Some(token))
            .await
        {
            Ok(reply) => reply,
            Err(failure) => return Err(self.tokens.refused(token, failure).await),
        };
        let parsed: EndpointResult<SignCertificateResponse> = reply.json(Step::Sign)?;
        self.warnings.report(parsed.warnings.unwrap_or_default());
        let answer = parsed.data.ok_or_else(|| {
            Failure::unusable(VaultError::Unusable {
                step: Step::Sign,
                problem: "it holds no data",
            })
        })?;
        Ok((reply, answer))
    }
}

impl CertSource for VaultPki {
    async fn fetch(&self, ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        self.ask(ask.current).await.map_err(SourceError::from)
    }

    /// Renews the token meanwhile; ready once the file of a refused credential holds another one.
    async fn changed(&self) {
        self.tokens.upkeep(&self.transport).await;
    }

    fn request(&self) -> Option<Fingerprint> {
        Some(self.fingerprint)
    }
}

impl fmt::Debug for VaultPki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultPki")
            .field("transport", &self.transport)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

fn request_error(error: rcgen::Error) -> Failure {
    Failure::unusable(VaultError::Request(error.into()))
}

/// Vault's warnings, told when they change and not with each renewal.
#[derive(Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    fn report(&self, warnings: Vec<String>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == warnings {
            return;
        }
        if !warnings.is_empty() {
            tracing::warn!(?warnings, "vault signed the certificate with warnings");
        }
        *last = warnings;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn warnings_are_told_once_per_change() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let warnings = Warnings::default();
        tracing::subscriber::with_default(subscriber, || {
            for round in ["", "clamped", "clamped", "", "clamped", "ignored"] {
                let list = Some(round).filter(|r| !r.is_empty());
                warnings.report(list.map(str::to_owned).into_iter().collect());
            }
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("WARN").count(), 3, "{text}");
    }
}
