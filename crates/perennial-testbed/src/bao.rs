//! OpenBao as a child process, with a PKI, an AppRole and an audit device.

mod agent;
mod api;
mod audit;
mod cluster;
mod pki;
mod process;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::TestbedError;
use crate::folder::Folder;
use crate::locate;
use crate::server::Server;
pub use agent::BaoAgent;
use api::{Api, Listener, text};
use audit::Tally;
pub use cluster::{Elections, OpenBaoCluster};
pub use pki::ServerCertificate;

const NAME: &str = "OpenBao";
const AUDIT_LOG: &str = "audit.log";
/// Lifetime of a wrapping token: longer than any test.
const WRAPPED_FOR: Duration = Duration::from_secs(3_600);

/// A real OpenBao with TLS, initialised and unsealed, with a PKI for clients and servers.
///
/// Its storage is a single raft node in its own folder, so everything survives [`OpenBao::stop`]. The root token and
/// the unseal key are kept only in memory.
pub struct OpenBao {
    server: Server,
    program: PathBuf,
    port: u16,
    /// The statuses of the health endpoint that unsealing waits for.
    ready: &'static [u16],
    listener: Listener,
    api: Api,
    unseal_key: String,
    roots_pem: String,
    approle: AppRole,
    tally: Mutex<Tally>,
}

/// The credentials that an app logs in with.
#[derive(Clone)]
#[non_exhaustive]
pub struct AppRole {
    /// The public part.
    pub role_id: String,
    /// The secret part, valid for any number of logins.
    pub secret_id: String,
}

impl OpenBao {
    /// Starts an OpenBao without a Postgres and waits until it is ready, about 1.5 s.
    ///
    /// Dropping it ends the process and removes its folder.
    ///
    /// # Errors
    /// As [`Testbed::start`](crate::Testbed::start).
    ///
    /// # Cancel safety
    /// Cancelling ends the process.
    pub async fn alone() -> Result<Self, TestbedError> {
        Self::start(locate::openbao(&|_| ()).await?).await
    }

    /// The address, such as `https://127.0.0.1:8200`. The listener's certificate is also valid for `localhost`.
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1. It does not change with [`OpenBao::stop`] and [`OpenBao::start_again`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The CA of the TLS listener (PEM). It is not a CA of the PKI, because the listener exists before the PKI.
    pub fn ca_pem(&self) -> &str {
        self.listener.ca_pem()
    }

    /// The mount of the intermediate CA, which issues certificates.
    pub fn mount(&self) -> &'static str {
        pki::MOUNT
    }

    /// The role for clients: EC P-256, client certificates only, common names `app` and `app-*`, not stored.
    pub fn client_role(&self) -> &'static str {
        pki::CLIENT_ROLE
    }

    /// Like the role for clients, but every certificate is stored, so an active node must write it.
    pub fn stored_client_role(&self) -> &'static str {
        pki::STORED_ROLE
    }

    /// The credentials that an app logs in with, at `auth/approle/login`.
    pub fn approle(&self) -> &AppRole {
        &self.approle
    }

    /// The first root CA of the PKI (PEM), which Postgres and its clients trust.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// The folder with `server.log` and `audit.log`.
    pub fn folder(&self) -> &Path {
        self.server.folder().path()
    }

    /// The `bao` binary, which is also OpenBao's command line.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The process number, or `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// OpenBao's log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// A new token, valid for an hour, with the same permissions as an app.
    ///
    /// # Errors
    /// [`TestbedError::NoReply`] while it is stopped, [`TestbedError::Refused`] while it is sealed.
    ///
    /// # Cancel safety
    /// Cancelling may leave an unused token behind.
    pub async fn app_token(&self) -> Result<String, TestbedError> {
        let body = json!({"policies": [pki::POLICY], "ttl": "1h", "no_parent": true});
        let reply = self.api("POST", "auth/token/create", body).await?;
        text(&reply["auth"]["client_token"], "client_token")
    }

    /// The number of certificates that the CA has issued or signed through the client roles.
    ///
    /// Read from the audit log, which OpenBao writes before it replies: the number is never behind the clients.
    ///
    /// # Errors
    /// [`TestbedError::Folder`] if reading the audit log fails.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn issued(&self) -> Result<u64, TestbedError> {
        self.tally().map(|tally| tally.issued)
    }

    /// The number of successful AppRole logins. As exact as [`OpenBao::issued`].
    ///
    /// # Errors
    /// [`TestbedError::Folder`] if reading the audit log fails.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn logins(&self) -> Result<u64, TestbedError> {
        self.tally().map(|tally| tally.logins)
    }

    /// Calls any endpoint below `/v1/` with the root token; `Value::Null` sends no body. An empty reply is `Null`.
    ///
    /// # Errors
    /// [`TestbedError::NoReply`] while it is stopped, otherwise [`TestbedError::Refused`] with OpenBao's own message.
    ///
    /// # Cancel safety
    /// OpenBao may still execute the request.
    pub async fn api(&self, method: &str, path: &str, body: Value) -> Result<Value, TestbedError> {
        self.api.call(method, path, body).await
    }

    /// Like [`OpenBao::api`], but returns a response-wrapping token for the reply, valid for an hour.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// OpenBao may still execute the request.
    pub async fn api_wrapped(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<String, TestbedError> {
        self.api.call_wrapped(method, path, body, WRAPPED_FOR).await
    }

    /// Creates a new root and a new intermediate, which issue all later certificates; returns the root (PEM).
    ///
    /// The common names of both end in `name`; those of the first root and intermediate end in `A`.
    /// Certificates of the old root stay valid wherever it is trusted: [`Postgres::trust`](crate::Postgres::trust).
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// The new root may still take effect.
    pub async fn change_root(&self, name: &str) -> Result<String, TestbedError> {
        pki::authorities(self, name).await
    }

    /// Creates a new intermediate of the same root, which issues all later certificates.
    ///
    /// Its common name ends in `name`. The previous intermediate still issues if a request names it.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// The new intermediate may still take effect.
    pub async fn change_intermediate(&self, name: &str) -> Result<(), TestbedError> {
        pki::intermediate(self, name).await
    }

    /// Fresh revocation lists (PEM) of the current root and intermediate, valid for `lifetime` (whole seconds).
    ///
    /// To revoke a certificate that the CA has not stored, send it whole: `{"certificate": pem}`.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// OpenBao may still create the lists.
    pub async fn crls_pem(&self, lifetime: Duration) -> Result<String, TestbedError> {
        pki::crls(self, lifetime).await
    }

    /// A new certificate for a server, from the current CA.
    ///
    /// # Errors
    /// As [`OpenBao::api`].
    ///
    /// # Cancel safety
    /// Cancelling may leave an unused certificate behind.
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
