//! The servers, the process with the pools, and the faults themselves.

mod hits;

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
use perennial_testbed::{Elections, FakeClock, OpenBao, OpenBaoCluster, Postgres, Proxy};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};

use super::account::{Failure, Record, Rotation, Window};
use super::authority::Authority;
use super::disk::Disk;
use super::fault::Fault;
use super::plan::{Hit, Step};
use super::report::{Moment, Report, Setup};

/// Lifetime of the revocation lists that do not expire during the run.
const LISTS: Duration = Duration::from_secs(24 * 3_600);

/// The session limit of both servers, and how many of them are left to superusers.
const SESSIONS: i64 = 300;
const RESERVED: i64 = 3;

/// How often Postgres is asked for its sessions' certificates.
const POLL: Duration = Duration::from_millis(300);

/// The limit for everything that should happen soon.
const SOON: Duration = Duration::from_secs(60);

/// What must be free on the machine's disk, in bytes: a run wrote 270 MB in its first ten minutes.
const ROOM_TO_START: u64 = 3 << 30;
const ROOM_TO_GO_ON: u64 = 1 << 29;

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
    folder: TempDir,
}

/// What the process with the pools and Postgres have reported.
#[derive(Debug, Default)]
struct Observed {
    record: Record,
    /// The serial number of each certificate, as OpenBao writes it.
    current: std::collections::BTreeMap<usize, String>,
    /// Whole errors of failed queries, with when they began and ended.
    texts: Vec<(Moment, String)>,
    /// Every query that began before this has ended.
    ended_before: Moment,
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
        let folder = tempfile::Builder::new()
            .prefix("perennial-chaos-")
            .tempdir()?;
        check_room(folder.path(), ROOM_TO_START)?;
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
        let to = Moment::now();
        Record {
            to,
            ..self.observed().record.clone()
        }
    }

    /// The whole errors of failed queries that began outside of what explains them.
    pub fn unexplained(&self) -> Vec<(Moment, String)> {
        let observed = self.observed();
        let texts = observed.texts.iter();
        let unexplained = texts.filter(|(began, _)| !observed.record.explains(*began));
        unexplained.cloned().collect()
    }

    /// Whether the next step can run.
    ///
    /// # Errors
    /// The load has ended on its own, or the machine's disk is nearly full.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.observed().ended, "the load has ended on its own");
        check_room(self.folder.path(), ROOM_TO_GO_ON)
    }

    /// Ends the load, and returns its last report.
    ///
    /// # Errors
    /// There is none within a minute.
    pub async fn finish(&self) -> anyhow::Result<Report> {
        self.observed().record.to = Moment::now();
        // A fault that was interrupted must not hold up the end; both fail where there is none.
        let _ = self.disk().and_then(|disk| disk.freeze(false));
        let _ = self.signal(Signal::CONT);
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

/// A server whose disk is full fails in ways that no fault of the plan explains.
fn check_room(folder: &Path, needed: u64) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(folder)?;
    let free = disk.f_bavail * disk.f_frsize;
    let (free, needed, folder) = (free >> 20, needed >> 20, folder.display());
    ensure!(
        free >= needed,
        "the disk of {folder} has {free} MiB free, and the run needs {needed}; set TMPDIR to one with more room"
    );
    Ok(())
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
            Report::EndedBefore(moment) => observed.ended_before = moment,
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
