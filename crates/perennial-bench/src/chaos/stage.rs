//! The servers, the process with the pools, and the faults themselves.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use perennial_testbed::serde_json::{Value, json};
use perennial_testbed::{
    Elections, FakeClock, Fault as Cut, OpenBao, OpenBaoCluster, Postgres, Proxy,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use super::account::{Failure, Record, Rotation, Window};
use super::authority::{Authority, Change};
use super::client::LONG_QUERY;
use super::disk::Disk;
use super::fault::Fault;
use super::plan::{Hit, Step};
use super::report::{Moment, Report, Setup};

/// A fault at Postgres is recorded so long before the server is hit: each query that it cuts off began inside.
const LEAD: Duration = Duration::from_millis((LONG_QUERY * 2_000.0) as u64);

/// Lifetime of the revocation lists that do not expire during the run.
const LISTS: Duration = Duration::from_secs(24 * 3_600);

/// The session limit of both servers, and how many of them are left to superusers.
const SESSIONS: i64 = 300;
const RESERVED: i64 = 3;

/// How often Postgres is asked for its sessions' certificates.
const POLL: Duration = Duration::from_millis(300);

/// The limit for everything that should happen soon.
const SOON: Duration = Duration::from_secs(60);

/// The AppRole of the testbed.
const APPROLE: &str = "auth/approle/role/app";

/// Everything that runs.
#[derive(Debug)]
pub struct Stage {
    cluster: OpenBaoCluster,
    proxies: Vec<Proxy>,
    servers: [Postgres; 2],
    /// Which of the servers is the primary.
    primary: AtomicUsize,
    authority: tokio::sync::Mutex<Option<Authority>>,
    roots: AtomicUsize,
    secret: Mutex<String>,
    client: Mutex<Child>,
    input: Mutex<Option<ChildStdin>>,
    client_clock: PathBuf,
    disk: Option<Disk>,
    observed: Arc<Mutex<Observed>>,
    witness: tokio::task::JoinHandle<()>,
    /// What cannot be run here, and why.
    pub skipped: Vec<(&'static [Fault], String)>,
    // Last: the disk is unmounted before its folder is removed.
    folder: tempdir::Folder,
}

/// What the process with the pools and Postgres have reported.
#[derive(Debug, Default)]
struct Observed {
    record: Record,
    /// The serial number of each certificate, as OpenBao writes it.
    current: std::collections::BTreeMap<usize, String>,
    /// Whole errors of failed queries, with when they began and ended.
    texts: Vec<(Moment, String)>,
    is_ready: bool,
    done: Option<Report>,
    ended: bool,
}

impl Stage {
    /// Starts everything, about 20 s; `client` is the program that runs the load, given the file of its [`Setup`].
    ///
    /// # Errors
    /// A server does not start, or the load does not begin.
    pub async fn set(certificates: usize, client: &Path) -> anyhow::Result<Self> {
        ensure!(
            certificates as i64 * 5 <= SESSIONS - RESERVED,
            "more certificates than Postgres has sessions for"
        );
        let folder = tempdir::Folder::create()?;
        let cluster = OpenBaoCluster::start(Elections::Quick).await?;
        let bao = &cluster.nodes()[cluster.whole().await?];
        let mut proxies = Vec::new();
        for node in cluster.nodes() {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port()));
            proxies.push(Proxy::start(address).await?);
        }
        let mut skipped: Vec<(&'static [Fault], String)> = Vec::new();
        let clock = FakeClock::find().await;
        let clock = clock.map_err(|error| {
            let why = perennial::with_causes(&error).to_string();
            skipped.push((&[Fault::ClientClock, Fault::ServerClock], why));
        });
        let mut primary = bao.postgres().await?;
        if let Ok(clock) = &clock {
            primary.use_clock(clock)?;
        }
        primary.stop().await?;
        primary.start_again().await?;
        let authority = Authority::current(bao).await?;
        primary
            .check_revocation(&authority.lists(bao, LISTS).await?)
            .await?;
        let standby = primary.standby().await?;

        let disk = Disk::mount(folder.path());
        let disk = disk.map_err(|error| {
            let faults = &[Fault::DiskFull, Fault::DiskReadOnly, Fault::DiskHanging];
            skipped.push((faults, format!("no file system of its own: {error:#}")));
        });
        let approle = bao.approle();
        let secret_file = folder.path().join("secret-id");
        private(&secret_file, &approle.secret_id)?;
        let saved = match &disk {
            Ok(disk) => disk.folder().join("certificates"),
            Err(()) => folder.path().join("certificates"),
        };
        fs::create_dir(&saved)?;
        fs::set_permissions(&saved, Permissions::from_mode(0o700))?;
        let setup = Setup {
            addresses: (proxies.iter())
                .map(|proxy| format!("https://127.0.0.1:{}", proxy.addr().port()))
                .collect(),
            ca_pem: bao.ca_pem().to_owned(),
            role_id: approle.role_id.clone(),
            secret_id: secret_file,
            mount: bao.mount().to_owned(),
            // Stored: only then it can be revoked by its serial number, and only an active node can issue it.
            role: bao.stored_client_role().to_owned(),
            ports: vec![primary.port(), standby.port()],
            saved: Some(saved),
            certificates,
        };
        let setup_file = folder.path().join("setup.json");
        private(&setup_file, &serde_json::to_string(&setup)?)?;
        let client_clock = folder.path().join("clock");
        let mut command = Command::new(client);
        command.arg("--client").arg(&setup_file);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C is for us alone.
        command.process_group(0);
        if let Ok(clock) = &clock {
            FakeClock::set(&client_clock, 0)?;
            command.envs(clock.environment(&client_clock));
        }
        let mut child = command.spawn().context("failed to start the load")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no output of the load")?;
        let observed = Arc::new(Mutex::new(Observed::default()));
        tokio::spawn(listen(output, Arc::clone(&observed)));
        let secret = Mutex::new(approle.secret_id.clone());
        let witness = tokio::spawn(watch(
            [socket(&primary), socket(&standby)],
            Arc::clone(&observed),
        ));
        let stage = Self {
            cluster,
            proxies,
            servers: [primary, standby],
            primary: AtomicUsize::new(0),
            authority: tokio::sync::Mutex::new(Some(authority)),
            roots: AtomicUsize::new(1),
            secret,
            client: Mutex::new(child),
            input: Mutex::new(input),
            client_clock,
            disk: disk.ok(),
            observed,
            witness,
            skipped,
            folder,
        };
        stage
            .until("the load begins", |observed| observed.is_ready)
            .await?;
        stage.observed().record.from = Moment::now();
        Ok(stage)
    }

    /// What was recorded up to now.
    pub fn record(&self) -> Record {
        let mut record = self.observed().record.clone();
        record.to = Moment::now();
        record
    }

    /// The whole errors of failed queries that began outside of what explains them.
    pub fn unexplained(&self) -> Vec<(Moment, String)> {
        let observed = self.observed();
        let texts = observed.texts.iter();
        let unexplained = texts.filter(|(began, _)| !observed.record.explains(*began));
        unexplained.cloned().collect()
    }

    /// Fails if the load has ended on its own.
    ///
    /// # Errors
    /// It has.
    pub fn check_load(&self) -> anyhow::Result<()> {
        ensure!(!self.observed().ended, "the load has ended on its own");
        Ok(())
    }

    /// Ends the load, and returns its last report.
    ///
    /// # Errors
    /// There is none within a minute.
    pub async fn finish(&self) -> anyhow::Result<Report> {
        self.observed().record.to = Moment::now();
        drop(self.lock(&self.input).take());
        self.until("the load ends", |observed| observed.done.is_some())
            .await?;
        // Sessions of the newest certificates may not have been seen yet.
        sleep(POLL).await;
        self.witness.abort();
        self.observed().done.take().context("no last report")
    }

    /// The certificates that OpenBao has issued to the load.
    ///
    /// # Errors
    /// Reading the audit logs fails.
    pub async fn issued(&self) -> anyhow::Result<u64> {
        Ok(self.cluster.issued().await?)
    }

    /// The version of Postgres.
    pub fn postgres_version(&self) -> &str {
        self.primary().version()
    }

    /// Runs one step of the plan and puts everything right again.
    ///
    /// # Errors
    /// A fault cannot be made or put right.
    pub async fn run(&self, step: &Step) -> anyhow::Result<()> {
        sleep(step.calm).await;
        let hit = async |hit: &Hit| {
            sleep(hit.after).await;
            let from = Moment::now();
            let ready = Box::pin(self.hit(hit)).await;
            let ready = ready.with_context(|| format!("{} failed", hit.fault.name()))?;
            anyhow::Ok(Window {
                fault: hit.fault,
                from,
                to: ready,
            })
        };
        let noted = async |step: &Hit| {
            let window = hit(step).await?;
            self.observed().record.windows.push(window);
            anyhow::Ok(())
        };
        match &step.hits[..] {
            [one] => noted(one).await,
            [one, other] => tokio::try_join!(noted(one), noted(other)).map(drop),
            _ => bail!("a step of no or more than two faults"),
        }
    }

    /// Makes one fault and puts it right; returns when it was over.
    async fn hit(&self, hit: &Hit) -> anyhow::Result<Moment> {
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
                // It is read once a second.
                sleep(Duration::from_secs(1)).await;
            }
            Fault::ServerClock => {
                self.primary().set_clock(hit.step)?;
                sleep(hit.lasts).await;
                self.primary().set_clock(0)?;
                sleep(Duration::from_secs(1)).await;
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
                sleep(LEAD).await;
                self.primary().stop().await?;
                sleep(hit.lasts).await;
                self.primary().start_again().await?;
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
        sleep(LEAD).await;
        old.stop().await?;
        sleep(lasts).await;
        new.promote().await?;
        self.primary.store(1 - from, Ordering::SeqCst);
        let ready = Moment::now();
        old.follow(new).await?;
        Ok(ready)
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

    /// The leader, by its own address.
    async fn bao(&self) -> anyhow::Result<&OpenBao> {
        Ok(&self.cluster.nodes()[self.cluster.leader().await?])
    }

    fn primary(&self) -> &Postgres {
        &self.servers[self.primary.load(Ordering::SeqCst)]
    }

    fn disk(&self) -> anyhow::Result<&Disk> {
        self.disk.as_ref().context("there is no such disk")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.lock(&self.client).id().context("the load has ended")?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("no process number")?, signal)?)
    }

    async fn until(&self, what: &str, reached: impl Fn(&Observed) -> bool) -> anyhow::Result<()> {
        let waiting = async {
            while !reached(&self.observed()) {
                ensure!(!self.observed().ended, "the load has ended before: {what}");
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        let late = || format!("not within {SOON:?}: {what}");
        timeout(SOON, waiting).await.with_context(late)?
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.lock(&self.observed)
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.witness.abort();
        // It must not hold the disk, which is unmounted next.
        let _ = self.lock(&self.client).start_kill();
    }
}

/// One of the ways in which a network fails.
fn cut(choice: usize) -> Cut {
    [Cut::Stall, Cut::Reset, Cut::Refuse][choice % 3]
}

/// Writes a file that only this user can read.
fn private(path: &Path, content: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    io::Write::write_all(&mut file, content.as_bytes())
}

/// Reads the reports of the load.
async fn listen(output: tokio::process::ChildStdout, observed: Arc<Mutex<Observed>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(report) = serde_json::from_str(&line) else {
            continue;
        };
        let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
        match report {
            Report::Ready => observed.is_ready = true,
            Report::Published {
                certificate,
                is_first,
                at,
                serial,
                hex,
                ahead,
            } => {
                observed.current.insert(certificate, hex);
                if !is_first {
                    let off = ahead != 0;
                    observed.record.rotations.push(Rotation { at, serial, off });
                }
            }
            Report::Failed {
                began,
                ended,
                certificate,
                cause,
                text,
            } => {
                let took = ended.since(began);
                let text = format!("pool {certificate}, after {took:?}: {text}");
                observed.texts.push((began, text));
                observed.record.failures.push(Failure { began, cause });
            }
            done @ Report::Done { .. } => observed.done = Some(done),
        }
    }
    observed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .ended = true;
}

/// The superuser's connection settings.
fn socket(server: &Postgres) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(server.folder()).port(server.port());
    config.user("postgres").dbname("postgres");
    config
}

/// Asks both servers for the certificates of their sessions, for ever.
async fn watch(servers: [tokio_postgres::Config; 2], observed: Arc<Mutex<Observed>>) {
    let mut sessions = [None, None];
    loop {
        for (config, session) in servers.iter().zip(&mut sessions) {
            if session.is_none()
                && let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await
            {
                // Ends when the client is dropped.
                tokio::spawn(connection);
                *session = Some(client);
            }
            let Some(client) = session.as_ref() else {
                continue;
            };
            let query =
                "select client_serial::text from pg_stat_ssl where client_serial is not null";
            let Ok(rows) = client.query(query, &[]).await else {
                *session = None;
                continue;
            };
            let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
            let serials = rows.iter().filter_map(|row| row.try_get(0).ok());
            observed.record.seen.extend(serials);
        }
        sleep(POLL).await;
    }
}

/// A folder that is removed with everything in it.
mod tempdir {
    use std::path::{Path, PathBuf};

    #[derive(Debug)]
    pub(super) struct Folder(PathBuf);

    impl Folder {
        pub(super) fn create() -> std::io::Result<Self> {
            use std::os::unix::fs::DirBuilderExt;
            let name = format!("perennial-chaos-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            Ok(Self(path))
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // What is left is of no use, and not secret for long.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
