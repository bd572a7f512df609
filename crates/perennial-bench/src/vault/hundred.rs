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

use super::{Place, written};
use crate::process::{cpu_time_of, resident_of};

/// The word of a process of ours that has every certificate.
const READY: &str = "ready";

/// Many certificates, to be kept by one process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hundred {
    place: Place,
    names: Vec<String>,
    life: Duration,
}

impl Hundred {
    /// `count` certificates of different names that live for whole seconds of `life`.
    pub fn new(bao: &OpenBao, count: u16, life: Duration) -> Self {
        Self {
            place: Place::of(bao),
            names: (0..count).map(|number| format!("app-{number}")).collect(),
            life,
        }
    }
}

/// A process that keeps them, and how long it took from its launch until it had all.
#[derive(Debug)]
pub struct Keeper {
    process: Process,
    /// Seconds.
    pub took: f64,
}

/// Ends when it is dropped.
#[derive(Debug)]
enum Process {
    Ours(Child),
    Agent(BaoAgent),
}

impl Keeper {
    /// This program once more, as a service of ours.
    ///
    /// # Errors
    /// What it fails with.
    pub async fn ours(hundred: &Hundred) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.as_mut().context("its input")?;
        let mut order = serde_json::to_vec(hundred)?;
        order.push(b'\n');
        stdin.write_all(&order).await?;
        let mut lines = BufReader::new(child.stdout.as_mut().context("its output")?).lines();
        let said = lines.next_line().await?;
        ensure!(said.as_deref() == Some(READY), "it said {said:?}");
        let took = began.elapsed().as_secs_f64();
        let process = Process::Ours(child);
        Ok(Self { process, took })
    }

    /// OpenBao's own agent.
    ///
    /// # Errors
    /// A file that does not come.
    pub async fn agent(bao: &OpenBao, hundred: &Hundred) -> anyhow::Result<Self> {
        let began = Instant::now();
        let agent = bao.agent(bao.client_role(), &hundred.names, hundred.life)?;
        written(&agent).await?;
        let took = began.elapsed().as_secs_f64();
        let process = Process::Agent(agent);
        Ok(Self { process, took })
    }

    /// Resident memory, MiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self) -> anyhow::Result<f64> {
        Ok(resident_of(self.pid()?)? as f64 / 1_048_576.0)
    }

    /// Seconds on a core so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        Ok(cpu_time_of(self.pid()?)?.as_secs_f64())
    }

    fn pid(&self) -> anyhow::Result<u32> {
        match &self.process {
            Process::Ours(child) => child.id(),
            Process::Agent(agent) => agent.pid(),
        }
        .context("it has ended")
    }
}

/// What [`Keeper::ours`] launches: takes its order from standard input, and keeps the certificates
/// until that ends.
///
/// # Errors
/// A certificate that cannot be had.
pub async fn keep() -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut order = String::new();
    input.read_line(&mut order).await?;
    let Hundred { place, names, life } = serde_json::from_str(&order)?;
    let sources = place.sources(&names, life)?;
    let all = try_join_all(sources.into_iter().map(LiveCert::start)).await?;
    let mut out = tokio::io::stdout();
    out.write_all(format!("{READY}\n").as_bytes()).await?;
    out.flush().await?;
    let mut rest = Vec::new();
    input.read_to_end(&mut rest).await?;
    ensure!(
        all.iter().all(LiveCert::is_ready),
        "a certificate was lost meanwhile"
    );
    Ok(())
}
