//! The faults themselves: each is made, lasts, and is put right.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{FakeClock, Fault as Cut};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::{LISTS, RESERVED, SESSIONS, SOON, Stage, private};
use crate::chaos::authority::{Authority, Change};
use crate::chaos::fault::Fault;
use crate::chaos::plan::Hit;
use crate::chaos::report::Moment;

/// After so long each process should have its new clock: libfaketime reads its file once a second.
const STEPPED: Duration = Duration::from_secs(2);

/// The AppRole of the testbed.
const APPROLE: &str = "auth/approle/role/app";

impl Stage {
    /// Makes one fault and puts it right; returns when it was over.
    pub(super) async fn hit(&self, hit: &Hit) -> anyhow::Result<Moment> {
        let nodes = self.cluster.nodes();
        match hit.fault {
            Fault::LeaderKilled => {
                let leader = self.cluster.leader().await?;
                nodes[leader].stop().await?;
                sleep(hit.lasts).await;
                nodes[leader].start_again().await?;
                self.cluster.whole().await?;
            }
            Fault::LeaderHung => {
                let leader = self.cluster.leader().await?;
                nodes[leader].pause()?;
                sleep(hit.lasts).await;
                nodes[leader].resume()?;
                self.cluster.whole().await?;
            }
            Fault::LeaderSealed => {
                let leader = self.cluster.leader().await?;
                nodes[leader].seal().await?;
                sleep(hit.lasts).await;
                nodes[leader].unseal().await?;
                self.cluster.whole().await?;
            }
            Fault::LeaderCutOff => {
                let leader = self.cluster.leader().await?;
                self.proxies[leader].set(cut(hit.choice)).await?;
                sleep(hit.lasts).await;
                self.proxies[leader].set(Cut::None).await?;
            }
            Fault::AllCutOff => {
                for proxy in &self.proxies {
                    proxy.set(cut(hit.choice)).await?;
                }
                sleep(hit.lasts).await;
                for proxy in &self.proxies {
                    proxy.set(Cut::None).await?;
                }
            }
            Fault::QuorumLost => {
                let spared = hit.choice % nodes.len();
                let hung = || (0..nodes.len()).filter(|node| *node != spared);
                for node in hung() {
                    nodes[node].pause()?;
                }
                sleep(hit.lasts).await;
                for node in hung() {
                    nodes[node].resume()?;
                }
                self.cluster.whole().await?;
            }
            Fault::CredentialReplaced => self.replace_credential(hit.lasts).await?,
            Fault::AuthorityRotated => self.rotate_authority(hit.lasts).await?,
            Fault::CertificateRevoked => self.revoke(hit).await?,
            Fault::ClientClock => {
                FakeClock::set(&self.client_clock, hit.step)?;
                sleep(hit.lasts).await;
                FakeClock::set(&self.client_clock, 0)?;
                sleep(STEPPED).await;
            }
            Fault::ServerClock => {
                self.primary().set_clock(hit.step)?;
                sleep(hit.lasts).await;
                self.primary().set_clock(0)?;
                sleep(STEPPED).await;
                // `pg_sleep` counts on the wall clock: one that was stepped back lasts so much longer.
                self.outlast().await?;
            }
            Fault::ClientStopped => {
                self.signal(Signal::STOP)?;
                sleep(hit.lasts).await;
                self.signal(Signal::CONT)?;
            }
            Fault::DiskFull => {
                self.disk()?.fill(true)?;
                sleep(hit.lasts).await;
                self.disk()?.fill(false)?;
            }
            Fault::DiskReadOnly => {
                self.make_read_only().await?;
                sleep(hit.lasts).await;
                self.disk()?.read_only(false)?;
            }
            Fault::DiskHanging => {
                self.disk()?.freeze(true)?;
                sleep(hit.lasts).await;
                self.disk()?.freeze(false)?;
            }
            Fault::Restarted => {
                let primary = self.primary();
                self.outlast().await?;
                primary.stop().await?;
                sleep(hit.lasts).await;
                primary.start_again().await?;
            }
            Fault::FailedOver => return self.fail_over(hit.lasts).await,
            Fault::ConnectionsUsedUp => self.use_up_connections(hit.lasts).await?,
            Fault::ListExpired => self.expire_list(hit.lasts).await?,
        }
        Ok(Moment::now())
    }

    async fn fail_over(&self, lasts: Duration) -> anyhow::Result<Moment> {
        let from = self.primary.load(Ordering::SeqCst);
        let (old, new) = (&self.servers[from], &self.servers[1 - from]);
        self.outlast().await?;
        old.stop().await?;
        sleep(lasts).await;
        new.promote().await?;
        self.primary.store(1 - from, Ordering::SeqCst);
        let ready = Moment::now();
        old.follow(new).await?;
        Ok(ready)
    }

    /// Waits until everything has ended that the load began before now, as the load itself says.
    ///
    /// A fault that cuts queries off is recorded before this, and made after it: so each of those began inside, however
    /// long a busy machine or a stepped clock made it.
    async fn outlast(&self) -> anyhow::Result<()> {
        let now = Moment::now();
        let what = "the queries under way end";
        self.until(what, |observed| observed.ended_before >= now)
            .await
    }

    async fn use_up_connections(&self, lasts: Duration) -> anyhow::Result<()> {
        let server = self.primary();
        let admin = server.admin().await?;
        let free = async || {
            let query =
                "select count(*) from pg_stat_activity where backend_type = 'client backend'";
            let taken: i64 = admin.query_one(query, &[]).await?.try_get(0)?;
            anyhow::Ok(SESSIONS - RESERVED - taken)
        };
        let mut sessions = Vec::new();
        let mut end = None;
        // Sessions that the load gives up are taken at once.
        while end.is_none_or(|end| Instant::now() < end) {
            let mut left = free().await?;
            while left > 0 {
                // A connect of the load may have been faster.
                let Ok(session) = server.admin().await else {
                    break;
                };
                sessions.push(session);
                left -= 1;
            }
            end.get_or_insert_with(|| Instant::now() + lasts);
            sleep(Duration::from_millis(50)).await;
        }
        let filled = sessions.len() as i64;
        drop(sessions);
        let freed = async {
            while free().await? < filled / 2 {
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        timeout(SOON, freed)
            .await
            .context("the sessions did not end")?
    }

    async fn expire_list(&self, lasts: Duration) -> anyhow::Result<()> {
        let authority = self.authority.lock().await;
        let authority = authority.as_ref().context("no CA")?;
        let bao = self.bao().await?;
        let lists = authority.lists(bao, Duration::from_secs(1)).await?;
        self.check_revocation(&lists).await?;
        sleep(Duration::from_secs(1) + lasts).await;
        let lists = authority.lists(self.bao().await?, LISTS).await?;
        self.check_revocation(&lists).await
    }

    async fn revoke(&self, hit: &Hit) -> anyhow::Result<()> {
        let serial = {
            let observed = self.observed();
            let certificate = hit.choice % observed.current.len().max(1);
            observed.current.get(&certificate).cloned()
        };
        let serial = serial.context("no certificate")?;
        let authority = self.authority.lock().await;
        let authority = authority.as_ref().context("no CA")?;
        let bao = self.bao().await?;
        Authority::revoke(bao, &serial).await?;
        let lists = authority.lists(bao, LISTS).await?;
        self.check_revocation(&lists).await?;
        sleep(hit.lasts).await;
        Ok(())
    }

    async fn replace_credential(&self, lasts: Duration) -> anyhow::Result<()> {
        let bao = self.bao().await?;
        let path = format!("{APPROLE}/secret-id");
        let reply = bao.api("POST", &path, json!({})).await?;
        let new = reply["data"]["secret_id"]
            .as_str()
            .context("no secret_id")?;
        let file = self.folder.path().join("secret-id");
        let draft = file.with_extension("new");
        private(&draft, new)?;
        fs::rename(draft, file)?;
        let old = std::mem::replace(&mut *self.lock(&self.secret), new.to_owned());
        let path = format!("{APPROLE}/secret-id/destroy");
        bao.api("POST", &path, json!({"secret_id": old})).await?;
        let path = "sys/leases/revoke-prefix/auth/approle/login";
        bao.api("PUT", path, Value::Null).await?;
        sleep(lasts).await;
        Ok(())
    }

    /// Every certificate is renewed once in each half.
    async fn rotate_authority(&self, lasts: Duration) -> anyhow::Result<()> {
        let mut current = self.authority.lock().await;
        let bao = self.bao().await?;
        let name = format!(
            "Perennial chaos root {}",
            self.roots.fetch_add(1, Ordering::SeqCst)
        );
        let old = current.clone().context("no CA")?;
        let change: Change = old.cross_sign(bao, &name).await?;
        let (from, to) = (&change.from, &change.to);
        let lists = change.lists(bao, LISTS).await?;
        self.check_revocation(&lists).await?;
        for server in &self.servers {
            server
                .trust(&format!("{}{}", from.root_pem, to.root_pem))
                .await?;
        }
        sleep(lasts / 2).await;
        let bao = self.bao().await?;
        self.present(&format!("{}{}", from.issuer_pem, to.issuer_pem))
            .await?;
        change.switch(bao).await?;
        sleep(lasts / 2).await;
        let bao = self.bao().await?;
        self.present(&to.issuer_pem).await?;
        for server in &self.servers {
            server.trust(&to.root_pem).await?;
        }
        let to = change.finish(bao).await?;
        self.check_revocation(&to.lists(bao, LISTS).await?).await?;
        *current = Some(to);
        Ok(())
    }

    /// Has both servers present their certificate with these intermediates.
    async fn present(&self, intermediates: &str) -> anyhow::Result<()> {
        const END: &str = "-----END CERTIFICATE-----\n";
        for server in &self.servers {
            let path = server.folder().join("private/server.crt");
            let chain = fs::read_to_string(&path)?;
            let (leaf, _) = chain.split_once(END).context("no certificate")?;
            fs::write(&path, format!("{leaf}{END}{intermediates}"))?;
            server.reload().await?;
        }
        Ok(())
    }

    async fn check_revocation(&self, lists: &str) -> anyhow::Result<()> {
        for server in &self.servers {
            server.check_revocation(lists).await?;
        }
        Ok(())
    }

    /// Refused while a file is open for writing.
    async fn make_read_only(&self) -> anyhow::Result<()> {
        let end = Instant::now() + SOON;
        loop {
            match self.disk()?.read_only(true) {
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(20)).await,
                outcome => return outcome,
            }
        }
    }
}

/// One of the ways in which a network fails.
fn cut(choice: usize) -> Cut {
    [Cut::Stall, Cut::Reset, Cut::Refuse][choice % 3]
}
