//! Connects over mTLS with P-256: our manager compared with one static TLS config.
//!
//! It does not use divan: speed varies from minute to minute on shared cores, so the two take turns
//! and are compared turn by turn.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bb8::ManageConnection;
use futures_util::future::try_join_all;
use perennial_bench::bars::{Arguments, Bars, bench};
use perennial_bench::process::cpu_time;
use perennial_bench::stage::{LONG, Stage, connect, renew, static_tls};
use perennial_bench::statistics::{describe, median, ratio};
use perennial_postgres::CertConnectionManager;
use perennial_testbed::{Fault, Proxy};
use tokio::time::Instant;
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Turns of each side.
const ROUNDS: usize = 15;

/// Connects per turn.
const CONNECTS: usize = 200;

/// Connects in progress at once.
const TASKS: [usize; 2] = [1, 8];

/// Delay of the proxy in each direction: half of a round trip.
const DELAY: Duration = Duration::from_millis(5);

/// Rotations with that delay, each followed by connects of both sides.
const DELAYED_ROUNDS: usize = 25;

/// Bar: client CPU per connect, over the static config.
const CPU: f64 = 1.05;

/// Bar: connects per second, over the static config.
const RATE: f64 = 0.95;

/// Bar: time of a connect with a round trip of 10 ms, over the static config.
const TIME: f64 = 1.05;

fn main() -> anyhow::Result<()> {
    bench(async |arguments, bars| {
        let stage = Stage::set(LONG).await?;
        for tasks in TASKS {
            local(&stage, tasks, arguments, bars).await?;
        }
        delayed(&stage, arguments, bars).await
    })
}

/// The result of one turn: connects per second, and seconds of CPU per connect.
struct Turn {
    rate: f64,
    cpu: f64,
}

async fn local(
    stage: &Stage,
    tasks: usize,
    arguments: &Arguments,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let sides = Sides::of(stage, stage.postgres().config()).await?;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 0..arguments.rounds(ROUNDS, 3) {
        let connects = arguments.rounds(CONNECTS, 40);
        // The first side may have an emptier machine or a colder cache, so the order alternates.
        for side in [round % 2, (round + 1) % 2] {
            if side == 0 {
                ours.push(turn(stage, tasks, connects, async || sides.ours().await).await?);
            } else {
                theirs.push(turn(stage, tasks, connects, async || sides.theirs().await).await?);
            }
        }
    }
    let each = |of: fn(&Turn) -> f64, turns: &[Turn]| turns.iter().map(of).collect::<Vec<_>>();
    let cpus = [&ours, &theirs].map(|turns| each(|turn| turn.cpu, turns));
    let rates = [&ours, &theirs].map(|turns| each(|turn| turn.rate, turns));
    writeln!(
        io::stdout(),
        "PostgreSQL {}, connects, {tasks} at a time, {} paired rounds (medians)\n  \
         ours   {:.1} per second, {:.3} ms of CPU each\n  static {:.1} per second, {:.3} ms",
        stage.postgres().version(),
        ours.len(),
        median(&rates[0]),
        1e3 * median(&cpus[0]),
        median(&rates[1]),
        1e3 * median(&cpus[1]),
    )?;
    let (cpu, interval) = ratio(&cpus[0], &cpus[1]);
    bars.at_most(
        format_args!("CPU over static ({})", describe(interval)),
        cpu,
        CPU,
    )?;
    let (rate, interval) = ratio(&rates[0], &rates[1]);
    bars.at_least(
        format_args!("rate over static ({})", describe(interval)),
        rate,
        RATE,
    )?;
    Ok(())
}

async fn turn(
    stage: &Stage,
    tasks: usize,
    connects: usize,
    connect: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<Turn> {
    let (spent, began) = (cpu_time()?, Instant::now());
    let task = async || {
        for _ in 0..connects / tasks {
            connect().await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..tasks).map(|_| task())).await?;
    let rate = connects as f64 / began.elapsed().as_secs_f64();
    // Closing counts towards the connect, and no turn pays for the previous one.
    stage.no_backend_left().await?;
    let cpu = cpu_time()?.saturating_sub(spent).as_secs_f64() / connects as f64;
    Ok(Turn { rate, cpu })
}

/// Measures connects through a proxy with a round trip of 10 ms.
async fn delayed(stage: &Stage, arguments: &Arguments, bars: &mut Bars) -> anyhow::Result<()> {
    let server = SocketAddr::from(([127, 0, 0, 1], stage.postgres().port()));
    let proxy = Proxy::start(server).await?;
    proxy.set(Fault::Delay(DELAY)).await?;
    let mut config = Config::new();
    config.host("127.0.0.1").port(proxy.addr().port());
    config.user(stage.postgres().user());
    config.dbname(stage.postgres().database());
    config.ssl_mode(tokio_postgres::config::SslMode::Require);

    let sides = Sides::of(stage, config).await?;
    let (mut ours, mut first, mut theirs) = (vec![], vec![], vec![]);
    for _ in 0..arguments.rounds(DELAYED_ROUNDS, 2) {
        renew(&sides.live).await?;
        first.push(time(async || sides.ours().await).await?);
        theirs.push(time(async || sides.theirs().await).await?);
        ours.push(time(async || sides.ours().await).await?);
    }
    writeln!(
        io::stdout(),
        "connects with a round trip of {:?}, {} turns each (medians)\n  \
         ours {:.1} ms, ours first after a rotation {:.1} ms, static {:.1} ms",
        2 * DELAY,
        ours.len(),
        median(&ours),
        median(&first),
        median(&theirs),
    )?;
    let (warm, interval) = ratio(&ours, &theirs);
    bars.at_most(
        format_args!("time over static ({})", describe(interval)),
        warm,
        TIME,
    )?;
    let (first, interval) = ratio(&first, &theirs);
    let what = format_args!(
        "time over static, first connect after a rotation ({})",
        describe(interval)
    );
    bars.at_most(what, first, TIME)?;
    Ok(())
}

/// The duration of a connect in milliseconds.
async fn time(connect: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let began = Instant::now();
    connect().await?;
    Ok(1e3 * began.elapsed().as_secs_f64())
}

/// The two sides; at the beginning both use the same certificate.
struct Sides {
    live: perennial::LiveCert,
    manager: CertConnectionManager,
    config: Config,
    tls: MakeRustlsConnect,
}

impl Sides {
    /// Both sides connect once, so that both know the server's preferred key exchange.
    async fn of(stage: &Stage, config: Config) -> anyhow::Result<Self> {
        let live = stage.live().await?;
        let sides = Self {
            manager: CertConnectionManager::new(live.clone(), config.clone())?,
            tls: static_tls(&*live.current()?),
            live,
            config,
        };
        sides.ours().await.context("our first connect failed")?;
        sides
            .theirs()
            .await
            .context("the first static connect failed")?;
        Ok(sides)
    }

    async fn ours(&self) -> anyhow::Result<()> {
        drop(self.manager.connect().await?);
        Ok(())
    }

    async fn theirs(&self) -> anyhow::Result<()> {
        drop(connect(&self.config, self.tls.clone()).await?);
        Ok(())
    }
}
