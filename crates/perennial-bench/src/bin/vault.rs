//! Certificates from a real OpenBao: ours beside a bare client, and beside OpenBao's own agent.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use clap::{Parser, Subcommand};
use perennial_bench::bars::Bars;
use perennial_bench::statistics::{median, quantile, ratio, tell};
use perennial_bench::vault::{
    Bare, Hundred, IN_FLIGHT, Keeper, Ours, Place, keep, lost_by_agent, lost_by_us, outage,
};
use perennial_testbed::{Elections, OpenBao, OpenBaoCluster};

/// Of the bare client's rate.
const RATE: f64 = 0.75;

/// Microseconds of client CPU for a renewal.
const CPU: f64 = 400.0;

/// Of the agent's memory.
const MEMORY: f64 = 0.25;

/// Seconds from a server's return to a fresh certificate: one cap of the backoff at 60 s.
const RECOVERY: f64 = 3.0;

/// By how much each outage is longer than the one before: a backoff meets its end elsewhere.
const LONGER: Duration = Duration::from_secs(15);

/// Measure how certificates are got and kept, on a real OpenBao.
#[derive(Parser)]
#[command(name = "vault")]
struct Command {
    /// Fail if ours misses a bar
    #[arg(long, global = true)]
    check: bool,

    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Fetches a second, beside a bare client with ready-made requests
    Rate {
        /// Turns of each side
        #[arg(long, value_name = "N", default_value_t = 15)]
        turns: usize,

        /// Certificates of each of eight tasks; a turn renews them all
        #[arg(long, value_name = "N", default_value_t = 100)]
        each: usize,
    },
    /// Many certificates in one process, beside the agent
    Hundred {
        /// Certificates
        #[arg(long, value_name = "N", default_value_t = 100)]
        count: u16,

        /// Life of a certificate
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
        ttl: Duration,

        /// How long both keep them
        #[arg(long = "for", value_name = "TIME", default_value = "130s", value_parser = humantime::parse_duration)]
        keep: Duration,

        /// Starts of each side
        #[arg(long, value_name = "N", default_value_t = 7)]
        starts: usize,
    },
    /// An outage past expiry, beside the agent
    Outage {
        /// Life of a certificate
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
        ttl: Duration,

        /// How long the server is away at first; each time some seconds longer
        #[arg(long = "for", value_name = "TIME", default_value = "150s", value_parser = humantime::parse_duration)]
        away: Duration,

        /// Outages
        #[arg(long, value_name = "N", default_value_t = 4)]
        rounds: u32,
    },
    /// The leader of three nodes killed just before a renewal, beside the agent
    Leader {
        /// Life of a certificate
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
        ttl: Duration,

        /// Leaders killed for each
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: u32,
    },
    /// Said by this program to itself
    #[command(hide = true)]
    Keep,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let mut bars = Bars::default();
    match command.what {
        What::Rate { turns, each } => rate(turns, each, &mut bars).await?,
        What::Hundred {
            count,
            ttl,
            keep,
            starts,
        } => hundred(count, ttl, keep, starts, &mut bars).await?,
        What::Outage { ttl, away, rounds } => outages(ttl, away, rounds, &mut bars).await?,
        What::Leader { ttl, rounds } => leaders(ttl, rounds, &mut bars).await?,
        What::Keep => return keep().await,
    }
    bars.finish(command.check)
}

async fn rate(turns: usize, each: usize, bars: &mut Bars) -> anyhow::Result<()> {
    let bao = OpenBao::alone().await?;
    let bare = Bare::new(&bao).await?;
    let ours = Ours::new(&Place::of(&bao), each).await?;
    let (mut rates, mut bare_rates, mut cpu, mut bare_cpu) = (vec![], vec![], vec![], vec![]);
    for _ in 0..turns {
        let turn = ours.turn().await?;
        rates.push(turn.rate);
        cpu.push(turn.cpu);
        let turn = bare.turn(each).await?;
        bare_rates.push(turn.rate);
        bare_cpu.push(turn.cpu);
    }
    say(format_args!(
        "{IN_FLIGHT} in flight, {turns} turns of {} (medians)\n  \
         ours  {:.0}/s, {:.0} µs of CPU each\n  bare  {:.0}/s, {:.0} µs of CPU each",
        each * IN_FLIGHT,
        median(&rates),
        median(&cpu),
        median(&bare_rates),
        median(&bare_cpu),
    ))?;
    let (over, sure) = ratio(&rates, &bare_rates);
    bars.at_least(format_args!("rate over bare ({})", tell(sure)), over, RATE)?;
    bars.at_most("client CPU, µs a renewal", median(&cpu), CPU)?;
    Ok(())
}

async fn hundred(
    count: u16,
    ttl: Duration,
    keep: Duration,
    starts: usize,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let bao = OpenBao::alone().await?;
    let what = Hundred::new(&bao, count, ttl);
    let (mut took, mut agents_took) = (vec![], vec![]);
    for _ in 1..starts {
        took.push(Keeper::ours(&what).await?.took);
        agents_took.push(Keeper::agent(&bao, &what).await?.took);
    }
    let ours = Keeper::ours(&what).await?;
    let agent = Keeper::agent(&bao, &what).await?;
    took.push(ours.took);
    agents_took.push(agent.took);
    let before = (ours.cpu()?, agent.cpu()?);
    tokio::time::sleep(keep).await;
    let (cpu, agents_cpu) = (ours.cpu()? - before.0, agent.cpu()? - before.1);
    let (memory, agents_memory) = (ours.resident()?, agent.resident()?);
    say(format_args!(
        "{count} certificates of {ttl:?}, kept for {keep:?}\n  \
         ours   all after {:.3} s (median of {starts}), {memory:.1} MiB, {cpu:.2} s of CPU\n  \
         agent  all after {:.3} s, {agents_memory:.1} MiB, {agents_cpu:.2} s of CPU",
        median(&took),
        median(&agents_took),
    ))?;
    bars.at_most("memory over the agent's", memory / agents_memory, MEMORY)?;
    bars.at_most("CPU over the agent's", cpu / agents_cpu, 1.0)?;
    let (over, sure) = ratio(&took, &agents_took);
    let what = format_args!("time to all over the agent's ({})", tell(sure));
    bars.at_most(what, over, 1.0)?;
    Ok(())
}

async fn outages(
    ttl: Duration,
    away: Duration,
    rounds: u32,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let bao = OpenBao::alone().await?;
    let (mut ours, mut agents, mut tries) = (vec![], vec![], vec![]);
    let mut longest = away;
    for round in 0..rounds {
        longest = away + LONGER * round;
        let outage = outage(&bao, ttl, longest).await?;
        say(format_args!(
            "outage of {longest:?}, certificates of {ttl:?}: ours {:.2} s after the return, \
             {} tries meanwhile; agent {:.2} s",
            outage.ours, outage.tries, outage.agent,
        ))?;
        ours.push(outage.ours);
        agents.push(outage.agent);
        tries.push(outage.tries as f64);
    }
    // From the schedule's own rule: each wait is at least half the cap, once it has been reached.
    let cap = 0.05 * ttl.as_secs_f64();
    let bound = longest.as_secs_f64() / (cap / 2.0) + 5.0;
    bars.at_most("slowest recovery, s", quantile(&ours, 1.0), RECOVERY)?;
    bars.at_most("tries in an outage", quantile(&tries, 1.0), bound)?;
    say(format_args!(
        "  the agent's slowest: {:.1} s",
        quantile(&agents, 1.0)
    ))?;
    Ok(())
}

async fn leaders(ttl: Duration, rounds: u32, bars: &mut Bars) -> anyhow::Result<()> {
    let cluster = OpenBaoCluster::start(Elections::ByDefault).await?;
    let (mut behind, mut left, mut agents_left) = (vec![], vec![], vec![]);
    for round in 1..=rounds {
        let ours = lost_by_us(&cluster, ttl).await?;
        let agent = lost_by_agent(&cluster, ttl).await?;
        for (who, loss) in [("ours", ours), ("agent", agent)] {
            say(format_args!(
                "leader {round}, {who:<5}: the cluster was back after {:.2} s, a new certificate \
                 there after {:.2} s, the old one had {:.1} s left",
                loss.cluster, loss.renewed, loss.left,
            ))?;
        }
        behind.push(ours.renewed - ours.cluster);
        left.push(-ours.left);
        agents_left.push(agent.left);
    }
    let late = quantile(&behind, 1.0);
    bars.at_most("longest after the cluster's return, s", late, RECOVERY)?;
    bars.at_most("longest after expiry, s", quantile(&left, 1.0), 0.0)?;
    let least = quantile(&agents_left, 0.0);
    say(format_args!(
        "  least that the agent's old one had left: {least:.1} s"
    ))?;
    Ok(())
}

fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
