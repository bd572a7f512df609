//! Breaking things on purpose, and mending them: what the live view's keys do.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use base64ct::{Base64, Encoding};
use perennial::rustls::SignatureScheme;
use perennial::{LiveCert, Renewal, Snapshot, with_causes};
use perennial_postgres::CertConnectionManager;
use perennial_testbed::serde_json::json;
use perennial_testbed::{Fault, Testbed};

use crate::network::{Network, To};

/// How long revocation lists are good for: longer than anybody watches.
const LISTS_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How long anything may take that should happen soon.
const SOON: Duration = Duration::from_secs(30);
/// Between two looks at what should happen soon.
const LOOK: Duration = Duration::from_millis(50);

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Stops OpenBao, or starts it again.
    Stop,
    /// Seals OpenBao, or unseals it.
    Seal,
    /// Stalls the network to a server, or lets it pass again.
    Stall(To),
    /// Revokes the certificate in use.
    Revoke,
    /// Renews the certificate.
    Renew,
    /// Gives the PKI a new root, and both sides what they need to follow.
    ChangeCa,
}

impl Action {
    pub(crate) fn of(key: char) -> Option<Self> {
        Some(match key {
            'o' => Self::Stop,
            's' => Self::Seal,
            'n' => Self::Stall(To::OpenBao),
            'p' => Self::Stall(To::Postgres),
            'v' => Self::Revoke,
            'r' => Self::Renew,
            'c' => Self::ChangeCa,
            _ => return None,
        })
    }
}

/// What is broken now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) openbao: OpenBao,
    pub(crate) way_to_openbao: Way,
    pub(crate) way_to_postgres: Way,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OpenBao {
    #[default]
    Up,
    Stopped,
    Sealed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    #[default]
    Open,
    Stalled,
}

/// The servers, and what has been done to them.
pub(crate) struct Faults<'a> {
    testbed: &'a Testbed,
    network: &'a Network,
    live: LiveCert,
    manager: CertConnectionManager,
    pool: bb8::Pool<CertConnectionManager>,
    done: Mutex<Done>,
}

struct Done {
    broken: Broken,
    /// The root of the PKI (PEM).
    root: String,
    /// How many roots there have been.
    roots: u8,
    /// The revocation lists that Postgres looks at (PEM); empty before the first revocation.
    lists: String,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(
        testbed: &'a Testbed,
        network: &'a Network,
        live: &LiveCert,
        manager: &CertConnectionManager,
        pool: &bb8::Pool<CertConnectionManager>,
    ) -> Self {
        Self {
            testbed,
            network,
            live: live.clone(),
            manager: manager.clone(),
            pool: pool.clone(),
            done: Mutex::new(Done {
                broken: Broken::default(),
                root: testbed.bao.roots_pem().to_owned(),
                roots: 1,
                lists: String::new(),
            }),
        }
    }

    pub(crate) fn broken(&self) -> Broken {
        self.done().broken
    }

    /// Does it, and says what was done.
    ///
    /// # Cancel safety
    /// What was begun may have been done.
    pub(crate) async fn act(&self, action: Action) -> anyhow::Result<String> {
        match action {
            Action::Stop => self.stop().await,
            Action::Seal => self.seal().await,
            Action::Stall(to) => self.stall(to).await,
            Action::Revoke => self.revoke().await,
            Action::Renew => self.renew().await,
            Action::ChangeCa => self.change_ca().await,
        }
    }

    async fn stop(&self) -> anyhow::Result<String> {
        let bao = &self.testbed.bao;
        if self.broken().openbao == OpenBao::Stopped {
            bao.start_again().await?;
            self.done().broken.openbao = OpenBao::Up;
            return Ok("OpenBao is up again".to_owned());
        }
        bao.stop().await?;
        self.done().broken.openbao = OpenBao::Stopped;
        Ok("OpenBao is stopped".to_owned())
    }

    async fn seal(&self) -> anyhow::Result<String> {
        let bao = &self.testbed.bao;
        let (now, said) = match self.broken().openbao {
            OpenBao::Stopped => bail!("OpenBao is stopped: start it first"),
            OpenBao::Up => (bao.seal().await.map(|()| OpenBao::Sealed), "sealed"),
            OpenBao::Sealed => (bao.unseal().await.map(|()| OpenBao::Up), "unsealed"),
        };
        self.done().broken.openbao = now?;
        Ok(format!("OpenBao is {said}"))
    }

    async fn stall(&self, to: To) -> anyhow::Result<String> {
        let broken = self.broken();
        let way = match to {
            To::OpenBao => broken.way_to_openbao,
            To::Postgres => broken.way_to_postgres,
        };
        let (fault, now, said) = match way {
            Way::Open => (Fault::Stall, Way::Stalled, "stalls: not a byte passes"),
            Way::Stalled => (Fault::None, Way::Open, "passes everything again"),
        };
        self.network.set(to, fault).await?;
        match to {
            To::OpenBao => self.done().broken.way_to_openbao = now,
            To::Postgres => self.done().broken.way_to_postgres = now,
        }
        Ok(format!("the network to {to:?} {said}"))
    }

    /// Revokes the certificate and has somebody log in, so that the refusal is met at once.
    async fn revoke(&self) -> anyhow::Result<String> {
        self.needs_openbao()?;
        let (bao, current) = (&self.testbed.bao, self.live.current()?);
        let ask = json!({"certificate": leaf_pem(&current)?});
        bao.api("POST", &format!("{}/revoke", bao.mount()), ask)
            .await?;
        self.tell_lists().await?;
        let login = async {
            // Refused for good if the last renewal was a moment ago: then no other is forced yet.
            loop {
                match self.pool.dedicated_connection().await {
                    Ok(login) => return login,
                    Err(_refused) => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let login = tokio::time::timeout(SOON, login).await;
        let login = login.context("no login after the revocation")?;
        Ok(format!(
            "generation {} was revoked; a login with it was refused, and went on with {}",
            current.generation(),
            login.generation()
        ))
    }

    async fn renew(&self) -> anyhow::Result<String> {
        let newest = self.renewed(|_any| true).await?;
        Ok(format!("renewed on demand: {}", newest.generation()))
    }

    /// The server learns the new root first and presents it last.
    async fn change_ca(&self) -> anyhow::Result<String> {
        self.needs_openbao()?;
        let (bao, postgres) = (&self.testbed.bao, &self.testbed.postgres);
        let (old, name) = {
            let done = self.done();
            (done.root.clone(), char::from(b'A' + done.roots % 26))
        };
        let new = bao.change_root(&name.to_string()).await?;
        {
            let mut done = self.done();
            done.root.clone_from(&new);
            done.roots += 1;
        }
        postgres.trust(&format!("{old}{new}")).await?;
        if !self.done().lists.is_empty() {
            self.tell_lists().await?;
        }
        let of_it = |snapshot: &Snapshot| snapshot.issuer().ends_with(&format!(" {name}"));
        let newest = self.renewed(of_it).await?;
        self.moved_onto(newest.generation()).await?;
        postgres.present(&bao.server_certificate().await?).await?;
        postgres.trust(&new).await?;
        Ok(format!(
            "the CA is {name} on both sides, from generation {} on",
            newest.generation()
        ))
    }

    /// Has Postgres look at fresh lists of the CAs that issue now, besides those of before.
    async fn tell_lists(&self) -> anyhow::Result<()> {
        let fresh = self.testbed.bao.crls_pem(LISTS_LIFE).await?;
        let lists = {
            let mut done = self.done();
            done.lists.insert_str(0, &fresh);
            done.lists.clone()
        };
        Ok(self.testbed.postgres.check_revocation(&lists).await?)
    }

    /// Renews until there is a newer certificate as it should be.
    async fn renewed(
        &self,
        as_it_should_be: impl Fn(&Snapshot) -> bool,
    ) -> anyhow::Result<std::sync::Arc<Snapshot>> {
        let renewal = async {
            loop {
                match self.live.renew_now().await {
                    Renewal::Newer(snapshot) if as_it_should_be(&snapshot) => return Ok(snapshot),
                    Renewal::Failed(error) => bail!("not renewed: {}", with_causes(&*error)),
                    // Too short a while after the last one.
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(SOON, renewal).await?
    }

    async fn moved_onto(&self, generation: u64) -> anyhow::Result<()> {
        let moved = async {
            while !crate::rotations::all_on(&self.manager, generation) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let in_time = tokio::time::timeout(SOON, moved).await;
        in_time.context("the pool did not move")
    }

    fn needs_openbao(&self) -> anyhow::Result<()> {
        match self.broken().openbao {
            OpenBao::Up => Ok(()),
            OpenBao::Stopped | OpenBao::Sealed => bail!("OpenBao must be up for that"),
        }
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this snapshot presents: the CA stores nothing, so it must be shown what to revoke.
fn leaf_pem(snapshot: &Snapshot) -> anyhow::Result<String> {
    let resolver = snapshot.client_config().client_auth_cert_resolver.clone();
    let presented = resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]);
    let presented = presented.context("a certificate to present")?;
    let leaf = presented.cert.first().context("a leaf")?;
    let leaf = Base64::encode_string(leaf);
    Ok(format!(
        "-----BEGIN CERTIFICATE-----\n{leaf}\n-----END CERTIFICATE-----\n"
    ))
}
