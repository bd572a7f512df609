//! Certificates from a real OpenBao: ours compared with a bare client and with OpenBao's own agent.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use clap::{Parser, Subcommand};
use perennial_bench::bars::Bars;
use perennial_bench::statistics::{describe, median, quantile, ratio};
use perennial_bench::vault::{
    Bare, Hundred, IN_FLIGHT, Keeper, Ours, Place, keep, lost_leader_agent, lost_leader_ours,
    outage,
};
use perennial_testbed::{Elections, OpenBao, OpenBaoCluster};

/// Bar: our memory over the agent's.
const MEMORY: f64 = 0.25;

/// Bar: seconds from a server's return to a new certificate, the longest back-off for 60 s certificates.
const RECOVERY: f64 = 3.0;

/// Each outage is longer than the previous one by this time, so that it ends at another point of the back-off.
const LONGER: Duration = Duration::from_secs(15);

/// Measure how certificates are obtained and renewed, with a real OpenBao.
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
    /// Renewals per second, compared with a bare client that sends prepared requests
    Rate {
        /// Turns of each side
        #[arg(long, value_name = "N", default_value_t = 15)]
        turns: usize,

        /// Certificates of each of eight tasks; a turn renews all of them
        #[arg(long, value_name = "N", default_value_t = 100)]
        each: usize,
    },
    /// Many certificates in one process, compared with the agent
    Hundred {
        /// Certificates
        #[arg(long, value_name = "N", default_value_t = 100)]
        count: u16,

        /// Lifetime of each certificate
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
        ttl: Duration,

        /// How long both sides keep them
        #[arg(long = "for", value_name = "TIME", default_value = "130s", value_parser = humantime::parse_duration)]
        keep: Duration,

        /// Starts of each side
        #[arg(long, value_name = "N", default_value_t = 7)]
        starts: usize,
    },
    /// An outage past expiry, compared with the agent
    Outage {
        /// Lifetime of each certificate
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
        ttl: Duration,

        /// Length of the first outage; each further outage is 15 s longer
        #[arg(long = "for", value_name = "TIME", default_value = "150s", value_parser = humantime::parse_duration)]
        first: Duration,

        /// Number of outages
        #[arg(long, value_name = "N", default_value_t = 4)]
        rounds: u32,
    },
    /// Kill the leader of three nodes just before a renewal, compared with the agent
    Leader {
        /// Lifetime of each certificate
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
        ttl: Duration,

        /// Number of leaders to kill for each side
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: u32,
    },
    /// Used by this program to start itself
    #[command(hide = true)]
    Keep,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let mut bars = Bars::default();
    match command.what {
        What::Rate { turns, each } => rate(turns, each).await?,
        What::Hundred {
            count,
            ttl,
            keep,
            starts,
        } => hundred(count, ttl, keep, starts, &mut bars).await?,
        What::Outage { ttl, first, rounds } => outages(ttl, first, rounds, &mut bars).await?,
        What::Leader { ttl, rounds } => leaders(ttl, rounds, &mut bars).await?,
        What::Keep => return keep().await,
    }
    bars.finish(command.check)
}

async fn rate(turns: usize, each: usize) -> anyhow::Result<()> {
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
    let (over, interval) = ratio(&rates, &bare_rates);
    let interval = describe(interval);
    say(format_args!(
        "  rate, ours over bare: {over:.3} ({interval})"
    ))?;
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
        "{count} certificates valid for {ttl:?}, kept for {keep:?}\n  \
         ours   all after {:.3} s (median of {starts}), {memory:.1} MiB, {cpu:.2} s of CPU\n  \
         agent  all after {:.3} s, {agents_memory:.1} MiB, {agents_cpu:.2} s of CPU",
        median(&took),
        median(&agents_took),
    ))?;
    bars.at_most("memory over the agent's", memory / agents_memory, MEMORY)?;
    bars.at_most("CPU over the agent's", cpu / agents_cpu, 1.0)?;
    let (over, interval) = ratio(&took, &agents_took);
    let what = format_args!(
        "time to all certificates over the agent's ({})",
        describe(interval)
    );
    bars.at_most(what, over, 1.0)?;
    Ok(())
}

async fn outages(
    ttl: Duration,
    first: Duration,
    rounds: u32,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let bao = OpenBao::alone().await?;
    let (mut ours, mut agents, mut attempts) = (vec![], vec![], vec![]);
    let mut longest = first;
    for round in 0..rounds {
        longest = first + LONGER * round;
        let outage = outage(&bao, ttl, longest).await?;
        say(format_args!(
            "outage of {longest:?}, certificates valid for {ttl:?}: ours {:.2} s after the server's return, \
             {} attempts during the outage; agent {:.2} s",
            outage.ours, outage.attempts, outage.agent,
        ))?;
        ours.push(outage.ours);
        agents.push(outage.agent);
        attempts.push(outage.attempts as f64);
    }
    // From the rule of our schedule: once the cap is reached, each wait is at least half of it.
    let cap = 0.05 * ttl.as_secs_f64();
    let bound = longest.as_secs_f64() / (cap / 2.0) + 5.0;
    bars.at_most("slowest recovery, s", quantile(&ours, 1.0), RECOVERY)?;
    bars.at_most("attempts in an outage", quantile(&attempts, 1.0), bound)?;
    say(format_args!(
        "  the agent's slowest recovery: {:.1} s",
        quantile(&agents, 1.0)
    ))?;
    Ok(())
}

async fn leaders(ttl: Duration, rounds: u32, bars: &mut Bars) -> anyhow::Result<()> {
    let cluster = OpenBaoCluster::start(Elections::ByDefault).await?;
    let (mut behind, mut expired, mut agents_left) = (vec![], vec![], vec![]);
    for round in 1..=rounds {
        let ours = lost_leader_ours(&cluster, ttl).await?;
        let agent = lost_leader_agent(&cluster, ttl).await?;
        for (who, loss) in [("ours", ours), ("agent", agent)] {
            say(format_args!(
                "leader {round}, {who:<5}: cluster back after {:.2} s, new certificate after {:.2} s, \
                 the old one had {:.1} s left",
                loss.cluster, loss.renewed, loss.remaining,
            ))?;
        }
        behind.push(ours.renewed - ours.cluster);
        expired.push(-ours.remaining);
        agents_left.push(agent.remaining);
    }
    let late = quantile(&behind, 1.0);
    bars.at_most("longest after the cluster's return, s", late, RECOVERY)?;
    bars.at_most("longest after expiry, s", quantile(&expired, 1.0), 0.0)?;
    let least = quantile(&agents_left, 0.0);
    say(format_args!(
        "  least remaining lifetime of the agent's old certificate: {least:.1} s"
    ))?;
    Ok(())
}

fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
