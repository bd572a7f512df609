//! Faults on purpose, and their repair: the actions behind the keys of the live view.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use base64ct::{Base64, Encoding};
use perennial::rustls::SignatureScheme;
use perennial::{RenewError, Renewed, Snapshot, with_causes};
use perennial_service::App;
use perennial_testbed::serde_json::json;
use perennial_testbed::{Fault, Proxy, Testbed, TestbedError};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use crate::rotations::has_moved;

/// Lifetime of revocation lists: longer than any demo runs.
const LISTS_LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// Time limit for renewals, logins and the move of the pool.
const LIMIT: Duration = Duration::from_secs(30);
/// Wait between two attempts or checks.
const POLL: Duration = Duration::from_millis(50);

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Stops or starts OpenBao.
    Stop,
    /// Seals or unseals OpenBao.
    Seal,
    /// Stalls or resumes the network to a server.
    Stall(Server),
    /// Revokes the current certificate.
    Revoke,
    /// Renews the certificate.
    Renew,
    /// Replaces the root of the PKI, on both sides.
    ChangeCa,
}

impl Action {
    pub(crate) fn of(key: char) -> Option<Self> {
        Some(match key {
            'o' => Self::Stop,
            's' => Self::Seal,
            'n' => Self::Stall(Server::OpenBao),
            'p' => Self::Stall(Server::Postgres),
            'v' => Self::Revoke,
            'r' => Self::Renew,
            'c' => Self::ChangeCa,
            _ => return None,
        })
    }
}

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    OpenBao,
    Postgres,
}

/// A proxy in front of each server, which can stall the network. TLS passes through them unchanged.
pub(crate) struct Network {
    openbao: Proxy,
    postgres: Proxy,
}

impl Network {
    pub(crate) async fn start(testbed: &Testbed) -> Result<Self, TestbedError> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            openbao: Proxy::start(local(testbed.bao.port())).await?,
            postgres: Proxy::start(local(testbed.postgres.port())).await?,
        })
    }

    pub(crate) fn openbao(&self) -> String {
        format!("https://{}", self.openbao.addr())
    }

    pub(crate) fn postgres(&self, testbed: &Testbed) -> Config {
        let (postgres, proxy) = (&testbed.postgres, self.postgres.addr());
        let mut config = Config::new();
        config.host(proxy.ip().to_string()).port(proxy.port());
        config.user(postgres.user()).dbname(postgres.database());
        config.ssl_mode(SslMode::Require);
        config
    }

    async fn set(&self, server: Server, fault: Fault) -> Result<(), TestbedError> {
        match server {
            Server::OpenBao => self.openbao.set(fault).await,
            Server::Postgres => self.postgres.set(fault).await,
        }
    }
}

/// The faults that are active now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) openbao: OpenBao,
    pub(crate) link_to_openbao: Link,
    pub(crate) link_to_postgres: Link,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OpenBao {
    #[default]
    Running,
    Stopped,
    Sealed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Link {
    #[default]
    Open,
    Stalled,
}

/// The servers, and what was done to them so far.
pub(crate) struct Faults<'a> {
    testbed: &'a Testbed,
    network: &'a Network,
    app: App,
    state: Mutex<State>,
}

struct State {
    active: Active,
    /// The root of the PKI (PEM).
    root: String,
    /// The number of roots so far.
    roots: u8,
    /// The revocation lists that Postgres checks (PEM); empty before the first revocation.
    lists: String,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(testbed: &'a Testbed, network: &'a Network, app: &App) -> Self {
        Self {
            testbed,
            network,
            app: app.clone(),
            state: Mutex::new(State {
                active: Active::default(),
                root: testbed.bao.roots_pem().to_owned(),
                roots: 1,
                lists: String::new(),
            }),
        }
    }

    pub(crate) fn active(&self) -> Active {
        self.state().active
    }

    /// Performs the action and returns a description of what was done.
    ///
    /// # Cancel safety
    /// The action may be half done.
    pub(crate) async fn perform(&self, action: Action) -> anyhow::Result<String> {
        match action {
            Action::Stop => self.stop_or_start().await,
            Action::Seal => self.seal_or_unseal().await,
            Action::Stall(server) => self.stall_or_resume(server).await,
            Action::Revoke => self.revoke().await,
            Action::Renew => self.renew().await,
            Action::ChangeCa => self.change_ca().await,
        }
    }

    async fn stop_or_start(&self) -> anyhow::Result<String> {
        let bao = &self.testbed.bao;
        if self.active().openbao == OpenBao::Stopped {
            bao.start_again().await?;
            self.state().active.openbao = OpenBao::Running;
            return Ok("OpenBao is running again".to_owned());
        }
        bao.stop().await?;
        self.state().active.openbao = OpenBao::Stopped;
        Ok("OpenBao is stopped".to_owned())
    }

    async fn seal_or_unseal(&self) -> anyhow::Result<String> {
        let bao = &self.testbed.bao;
        let (openbao, done) = match self.active().openbao {
            OpenBao::Stopped => bail!("OpenBao is stopped: start it first"),
            OpenBao::Running => (bao.seal().await.map(|()| OpenBao::Sealed), "sealed"),
            OpenBao::Sealed => (bao.unseal().await.map(|()| OpenBao::Running), "unsealed"),
        };
        self.state().active.openbao = openbao?;
        Ok(format!("OpenBao is {done}"))
    }

    async fn stall_or_resume(&self, server: Server) -> anyhow::Result<String> {
        let active = self.active();
        let link = match server {
            Server::OpenBao => active.link_to_openbao,
            Server::Postgres => active.link_to_postgres,
        };
        let (fault, link, done) = match link {
            Link::Open => (Fault::Stall, Link::Stalled, "stalled: no byte passes"),
            Link::Stalled => (Fault::None, Link::Open, "resumed"),
        };
        self.network.set(server, fault).await?;
        match server {
            Server::OpenBao => self.state().active.link_to_openbao = link,
            Server::Postgres => self.state().active.link_to_postgres = link,
        }
        Ok(format!("network to {server:?} {done}"))
    }

    /// Revokes the certificate and logs in, so that Postgres refuses it at once.
    async fn revoke(&self) -> anyhow::Result<String> {
        self.require_openbao()?;
        let (bao, current) = (&self.testbed.bao, self.app.live.current()?);
        let body = json!({"certificate": leaf_pem(&current)?});
        bao.api("POST", &format!("{}/revoke", bao.mount()), body)
            .await?;
        self.update_lists().await?;
        let login = async {
            // Right after a renewal, a refusal does not cause another one yet: try again.
            loop {
                match self.app.pool.dedicated_connection().await {
                    Ok(login) => return login,
                    Err(_) => tokio::time::sleep(POLL).await,
                }
            }
        };
        let login = tokio::time::timeout(LIMIT, login).await;
        let login = login.context("no successful login within 30 s of the revocation")?;
        Ok(format!(
            "generation {} revoked; a login with it was refused and repeated with generation {}",
            current.generation(),
            login.generation()
        ))
    }

    async fn renew(&self) -> anyhow::Result<String> {
        let newest = self.renew_until(|_| true).await?;
        Ok(format!(
            "renewed on demand: generation {}",
            newest.generation()
        ))
    }

    /// Postgres trusts the new root before any client uses it, and presents it last.
    async fn change_ca(&self) -> anyhow::Result<String> {
        self.require_openbao()?;
        let (bao, postgres) = (&self.testbed.bao, &self.testbed.postgres);
        let (old, name) = {
            let state = self.state();
            (state.root.clone(), char::from(b'A' + state.roots % 26))
        };
        let new = bao.change_root(&name.to_string()).await?;
        {
            let mut state = self.state();
            state.root.clone_from(&new);
            state.roots += 1;
        }
        postgres.trust(&format!("{old}{new}")).await?;
        if !self.state().lists.is_empty() {
            self.update_lists().await?;
        }
        let by_new_ca = |snapshot: &Snapshot| snapshot.issuer().ends_with(&format!(" {name}"));
        let generation = self.renew_until(by_new_ca).await?.generation();
        self.wait_moved(generation).await?;
        postgres.present(&bao.server_certificate().await?).await?;
        postgres.trust(&new).await?;
        Ok(format!(
            "CA changed to {name} on both sides, from generation {generation} on"
        ))
    }

    /// Gives Postgres fresh revocation lists of the current CAs, in addition to the previous lists.
    async fn update_lists(&self) -> anyhow::Result<()> {
        let fresh = self.testbed.bao.crls_pem(LISTS_LIFETIME).await?;
        let lists = {
            let mut state = self.state();
            state.lists.insert_str(0, &fresh);
            state.lists.clone()
        };
        Ok(self.testbed.postgres.check_revocation(&lists).await?)
    }

    /// Renews until a newer certificate fulfils the condition.
    async fn renew_until(
        &self,
        condition: impl Fn(&Snapshot) -> bool,
    ) -> anyhow::Result<Arc<Snapshot>> {
        let renewal = async {
            loop {
                match self.app.live.renew().await {
                    Ok(Renewed::Newer(snapshot)) if condition(&snapshot) => return Ok(snapshot),
                    // Too soon after the previous renewal, or not the wanted certificate yet.
                    Ok(_) | Err(RenewError::Limited { .. }) => tokio::time::sleep(POLL).await,
                    Err(error) => bail!("renewal failed: {}", with_causes(&error)),
                }
            }
        };
        let in_time = tokio::time::timeout(LIMIT, renewal).await;
        in_time.context("no new certificate within 30 s")?
    }

    async fn wait_moved(&self, generation: u64) -> anyhow::Result<()> {
        let moved = async {
            while !has_moved(&self.app.pool, generation) {
                tokio::time::sleep(POLL).await;
            }
        };
        let in_time = tokio::time::timeout(LIMIT, moved).await;
        in_time.with_context(|| format!("pool did not move onto generation {generation} in 30 s"))
    }

    fn require_openbao(&self) -> anyhow::Result<()> {
        match self.active().openbao {
            OpenBao::Running => Ok(()),
            OpenBao::Stopped => bail!("OpenBao is stopped: start it first"),
            OpenBao::Sealed => bail!("OpenBao is sealed: unseal it first"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leaf in PEM: the CA does not store it, so a revocation request must contain it.
fn leaf_pem(snapshot: &Snapshot) -> anyhow::Result<String> {
    let resolver = snapshot.client_config().client_auth_cert_resolver.clone();
    let presented = resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]);
    let presented = presented.context("no certificate to present")?;
    let leaf = presented.cert.first().context("no leaf to present")?;
    let leaf = Base64::encode_string(leaf);
    Ok(format!(
        "-----BEGIN CERTIFICATE-----\n{leaf}\n-----END CERTIFICATE-----\n"
    ))
}
