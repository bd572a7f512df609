//! OpenBao as a child process, with a PKI, an AppRole and an audit device.

mod agent;
mod api;
mod audit;
mod cluster;
mod life;
mod listener;
mod pki;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::TestbedError;
use crate::folder::Folder;
use crate::locate;
use crate::server::Server;
pub use agent::BaoAgent;
use api::{Api, text};
use audit::Tally;
pub use cluster::{Elections, OpenBaoCluster};
use listener::Listener;
pub use pki::ServerCertificate;

const NAME: &str = "OpenBao";
const AUDIT_LOG: &str = "audit.log";
/// Longer than any test.
const WRAPPED_FOR: Duration = Duration::from_secs(3_600);
/// A real OpenBao behind TLS, initialised and unsealed, with a PKI for clients and servers.
///
/// Its storage is a single raft node in its own folder, so everything survives [`OpenBao::stop`]. Root token and
/// unseal key are held in memory only.
pub struct OpenBao {
    server: Server,
    program: PathBuf,
    port: u16,
    /// The health endpoint's statuses that unsealing waits for.
    ready: &'static [u16],
    listener: Listener,
    api: Api,
    unseal_key: String,
    roots_pem: String,
    approle: AppRole,
    tally: Mutex<Tally>,
}

/// What an app logs in with.
#[derive(Clone)]
#[non_exhaustive]
pub struct AppRole {
    /// The public half.
    pub role_id: String,
    /// The secret half. It can be used any number of times.
    pub secret_id: String,
}

impl OpenBao {
    /// Starts one without a Postgres beside it, and waits until it is ready, some 1.5 s.
    ///
    /// Dropping it ends it and removes its folder.
    ///
    /// # Errors
    /// As [`Testbed::start`](crate::Testbed::start).
    ///
    /// # Cancel safety
    /// Cancelling it ends what was started.
    pub async fn alone() -> Result<Self, TestbedError> {
        Self::start(locate::openbao(&|_| ()).await?).await
    }

    /// The address, such as `https://127.0.0.1:8200`. The certificate is also good for `localhost`.
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1. It stays the same over [`OpenBao::stop`] and [`OpenBao::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The CA of the TLS listener (PEM), which is not the PKI's: the listener is there before the PKI.
    pub fn ca_pem(&self) -> &str {
        self.listener.ca_pem()
    }

    /// The mount of the intermediate, which issues.
    pub fn mount(&self) -> &'static str {
        pki::MOUNT
    }

    /// The role for clients: EC P-256, client certificates only, common names `app` and `app-*`, nothing stored.
    pub fn client_role(&self) -> &'static str {
        pki::CLIENT_ROLE
    }

    /// As the role for clients, but every certificate is stored: an active node has to write it.
    pub fn stored_client_role(&self) -> &'static str {
        pki::STORED_ROLE
    }

    /// What an app logs in with, at `auth/approle/login`.
    pub fn approle(&self) -> &AppRole {
        &self.approle
    }

    /// The root CA that the PKI began with (PEM): what Postgres and its clients trust.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// The folder with `server.log` and `audit.log`.
    pub fn folder(&self) -> &Path {
        self.server.folder().path()
    }

    /// The `bao` that runs, which is its command line too.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The process's number, or `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// What OpenBao has logged so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// A fresh token, good for an hour, that may do what an app may do and no more.
    ///
    /// # Errors
    /// [`TestbedError::NoReply`] while it is stopped, [`TestbedError::Refused`] while it is sealed.
    ///
    /// # Cancel safety
    /// Cancelling it loses at most a token.
    pub async fn app_token(&self) -> Result<String, TestbedError> {
        let ask = json!({"policies": [pki::POLICY], "ttl": "1h", "no_parent": true});
        let reply = self.api("POST", "auth/token/create", ask).await?;
        text(&reply["auth"]["client_token"], "client_token")
    }

    /// How many certificates the CA has issued or signed through the client roles.
    ///
    /// Read from the audit log, to which OpenBao writes before it replies: never behind what a client knows.
    ///
    /// # Errors
    /// [`TestbedError::Folder`] where the audit log cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn issued(&self) -> Result<u64, TestbedError> {
        self.tally().map(|tally| tally.issued)
    }

    /// How many logins by AppRole have succeeded. As exact as [`OpenBao::issued`].
    ///
    /// # Errors
    /// [`TestbedError::Folder`] where the audit log cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn logins(&self) -> Result<u64, TestbedError> {
        self.tally().map(|tally| tally.logins)
    }

    /// Calls any endpoint below `/v1/` with the root token; `Value::Null` sends no body. An empty reply is `Null`.
    ///
    /// # Errors
    /// [`TestbedError::NoReply`] while it is stopped, [`TestbedError::Refused`] with OpenBao's own words otherwise.
    ///
    /// # Cancel safety
    /// OpenBao may have done it nevertheless.
    pub async fn api(&self, method: &str, path: &str, body: Value) -> Result<Value, TestbedError> {
        self.api.call(method, path, body).await
    }

    /// The same, with the reply in a response-wrapping token that is good for an hour; returns that.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// OpenBao may have done it nevertheless.
    pub async fn api_wrapped(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<String, TestbedError> {
        self.api.call_wrapped(method, path, body, WRAPPED_FOR).await
    }

    /// Makes a new root and a new intermediate, by which everything is issued from now on; returns the root (PEM).
    ///
    /// Both bear `name` at the end of their common names; those that the PKI began with bear `A`.
    /// Certificates of the old root stay good wherever it is trusted: [`Postgres::trust`](crate::Postgres::trust).
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// The new root may issue nevertheless.
    pub async fn change_root(&self, name: &str) -> Result<String, TestbedError> {
        pki::authorities(self, name).await
    }

    /// Makes a new intermediate of the same root, by which everything is issued from now on.
    ///
    /// It bears `name` at the end of its common name. The one before still may issue, where it is asked for by name.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// The new intermediate may issue nevertheless.
    pub async fn change_intermediate(&self, name: &str) -> Result<(), TestbedError> {
        pki::intermediate(self, name).await
    }

    /// Fresh revocation lists (PEM) of the root and the intermediate that issue now, in whole seconds of `life`.
    ///
    /// `revoke` takes a certificate that the CA has not stored if it is given whole: `{"certificate": pem}`.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// The lists may be made nevertheless.
    pub async fn crls_pem(&self, life: Duration) -> Result<String, TestbedError> {
        pki::crls(self, life).await
    }

    /// A certificate for a server, from the CA that issues now.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// Cancelling it loses at most a certificate.
    pub async fn server_certificate(&self) -> Result<ServerCertificate, TestbedError> {
        pki::server_certificate(self).await
    }

    fn tally(&self) -> Result<Tally, TestbedError> {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.read_on(&audit_log(self.server.folder()))?;
        Ok(tally.clone())
    }
}

fn audit_log(folder: &Folder) -> PathBuf {
    folder.path().join(AUDIT_LOG)
}

impl std::fmt::Debug for OpenBao {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenBao")
            .field("address", &self.address())
            .field("pid", &self.pid())
            .field("folder", &self.folder())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AppRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppRole")
            .field("role_id", &self.role_id)
            .finish_non_exhaustive()
    }
}
