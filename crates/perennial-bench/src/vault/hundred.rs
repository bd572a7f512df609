//! Many certificates in one process: ours compared with OpenBao's own agent.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use perennial::LiveCert;
use perennial_testbed::{BaoAgent, OpenBao, serde_json};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{Place, wait_written};
use crate::process::{cpu_time_of, resident_of};

/// The line that our process prints once it has every certificate.
const READY: &str = "ready";

/// Many certificates for one process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hundred {
    place: Place,
    names: Vec<String>,
    lifetime: Duration,
}

impl Hundred {
    /// `count` certificates with different names, valid for `lifetime` (whole seconds).
    pub fn new(bao: &OpenBao, count: u16, lifetime: Duration) -> Self {
        Self {
            place: Place::of(bao),
            names: (0..count).map(|number| format!("app-{number}")).collect(),
            lifetime,
        }
    }
}

/// A process that keeps the certificates.
#[derive(Debug)]
pub struct Keeper {
    process: Process,
    /// Seconds from its launch until it had all certificates.
    pub took: f64,
}

/// The process ends when this is dropped.
#[derive(Debug)]
enum Process {
    Ours(Child),
    Agent(BaoAgent),
}

impl Keeper {
    /// Starts this program again, as a service with our library.
    ///
    /// # Errors
    /// The process fails.
    pub async fn ours(hundred: &Hundred) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.as_mut().context("no pipe to the process")?;
        let mut task = serde_json::to_vec(hundred)?;
        task.push(b'\n');
        stdin.write_all(&task).await?;
        let mut lines =
            BufReader::new(child.stdout.as_mut().context("no pipe from the process")?).lines();
        let line = lines.next_line().await?;
        ensure!(line.as_deref() == Some(READY), "unexpected output {line:?}");
        let took = began.elapsed().as_secs_f64();
        let process = Process::Ours(child);
        Ok(Self { process, took })
    }

    /// Starts OpenBao's own agent.
    ///
    /// # Errors
    /// The agent does not write every file.
    pub async fn agent(bao: &OpenBao, hundred: &Hundred) -> anyhow::Result<Self> {
        let began = Instant::now();
        let agent = bao.agent(bao.client_role(), &hundred.names, hundred.lifetime)?;
        wait_written(&agent).await?;
        let took = began.elapsed().as_secs_f64();
        let process = Process::Agent(agent);
        Ok(Self { process, took })
    }

    /// The resident memory in MiB.
    ///
    /// # Errors
    /// The process has ended.
    pub fn resident(&self) -> anyhow::Result<f64> {
        Ok(resident_of(self.pid()?)? as f64 / 1_048_576.0)
    }

    /// The CPU time so far, in seconds.
    ///
    /// # Errors
    /// The process has ended.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        Ok(cpu_time_of(self.pid()?)?.as_secs_f64())
    }

    fn pid(&self) -> anyhow::Result<u32> {
        match &self.process {
            Process::Ours(child) => child.id(),
            Process::Agent(agent) => agent.pid(),
        }
        .context("the process has ended")
    }
}

/// The process that [`Keeper::ours`] launches: reads its task from standard input, and keeps the
/// certificates until standard input is closed.
///
/// # Errors
/// A certificate fails to start or is lost.
pub async fn keep() -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut task = String::new();
    input.read_line(&mut task).await?;
    let Hundred {
        place,
        names,
        lifetime,
    } = serde_json::from_str(&task)?;
    let sources = place.sources(&names, lifetime)?;
    let all = try_join_all(sources.into_iter().map(LiveCert::start)).await?;
    let mut out = tokio::io::stdout();
    out.write_all(format!("{READY}\n").as_bytes()).await?;
    out.flush().await?;
    let mut rest = Vec::new();
    input.read_to_end(&mut rest).await?;
    ensure!(
        all.iter().all(LiveCert::is_ready),
        "a certificate was lost in the meantime"
    );
    Ok(())
}
