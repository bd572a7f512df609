//! Warm check-outs: our pool compared with stock `bb8-postgres`, which pings at each check-out, and with no pool.

use std::error::Error;
use std::io::{self, Write};

use anyhow::{Context, ensure};
use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use perennial_bench::bars::{Arguments, Bars, bench};
use perennial_bench::stage::{LONG, Stage};
use perennial_bench::statistics::{describe, median, ratio};
use perennial_postgres::{CertConnectionManager, PgTls};
use tokio::time::Instant;
use tokio_postgres::Client;

/// Turns of each side.
const TURNS: usize = 41;

/// Check-outs per turn.
const CHECKOUTS: usize = 500;

/// Connections in each pool; one is in use at a time.
const POOL: u32 = 4;

/// Bar: time of a check-out, in microseconds.
const MEDIAN: f64 = 1.0;

/// Bar: check-out and query, over stock.
const QUERY: f64 = 0.55;

fn main() -> anyhow::Result<()> {
    bench(run)
}

async fn run(arguments: &Arguments, bars: &mut Bars) -> anyhow::Result<()> {
    let stage = Stage::set(LONG).await?;
    let live = stage.live().await?;
    let config = stage.postgres().config();
    let manager = CertConnectionManager::new(live.clone(), config.clone())?;
    let ours = manager.bb8_builder().max_size(POOL).min_idle(POOL);
    let ours = ours
        .build(manager)
        .await
        .context("failed to fill our pool")?;
    let stock = PostgresConnectionManager::new(config, PgTls::new(live));
    let builder = bb8::Pool::builder().max_size(POOL).min_idle(POOL);
    let stock = builder
        .build(stock)
        .await
        .context("failed to fill the stock pool")?;

    let ours = Side {
        pool: ours,
        client: |connection| connection,
    };
    let stock = Side {
        pool: stock,
        client: |client| client,
    };

    let held = ours.pool.get().await?;

    let (mut our_gets, mut stock_gets) = (vec![], vec![]);
    let (mut our_queries, mut stock_queries, mut bare_queries) = (vec![], vec![], vec![]);
    for _ in 0..arguments.rounds(TURNS, 3) {
        let (gets, queries) = ours.turn().await?;
        our_gets.extend(gets);
        our_queries.push(median(&queries));
        let (gets, queries) = stock.turn().await?;
        stock_gets.extend(gets);
        stock_queries.push(median(&queries));
        bare_queries.push(median(&without_a_pool(&held).await?));
    }
    writeln!(
        io::stdout(),
        "PostgreSQL {}, warm check-outs, µs (medians)\n  \
         ours  {:.2}, with `select 1` {:.1}\n  stock {:.2}, with `select 1` {:.1}\n  \
         no pool, `select 1` {:.1}",
        stage.postgres().version(),
        median(&our_gets),
        median(&our_queries),
        median(&stock_gets),
        median(&stock_queries),
        median(&bare_queries),
    )?;
    bars.at_most("check-out, µs", median(&our_gets), MEDIAN)?;
    let (over, interval) = ratio(&our_queries, &stock_queries);
    let what = format_args!(
        "check-out and `select 1` over stock ({})",
        describe(interval)
    );
    bars.at_most(what, over, QUERY)?;
    // The lower bound: the ratio of a check-out that takes no time.
    let (floor, interval) = ratio(&bare_queries, &stock_queries);
    writeln!(
        io::stdout(),
        "  without a pool: {floor:.3} ({})",
        describe(interval)
    )?;
    Ok(())
}

/// Microseconds of round trips on a connection outside the pools.
async fn without_a_pool(client: &Client) -> anyhow::Result<Vec<f64>> {
    let mut queries = Vec::new();
    for _ in 0..CHECKOUTS {
        let began = Instant::now();
        client.simple_query("select 1").await?;
        queries.push(1e6 * began.elapsed().as_secs_f64());
    }
    Ok(queries)
}

/// A pool, and how to get the client of one of its connections.
struct Side<M: ManageConnection> {
    pool: bb8::Pool<M>,
    client: fn(&M::Connection) -> &Client,
}

impl<M: ManageConnection<Error: Error + Send + Sync>> Side<M> {
    /// Microseconds until a connection is ready for use, including the first access to it.
    async fn get(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let connection = self.pool.get().await?;
        let closed = (self.client)(&connection).is_closed();
        let took = began.elapsed();
        ensure!(!closed, "the pool returned a closed connection");
        Ok(1e6 * took.as_secs_f64())
    }

    /// Microseconds for a check-out, one round trip, and the return.
    async fn query(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let connection = self.pool.get().await?;
        (self.client)(&connection).simple_query("select 1").await?;
        drop(connection);
        Ok(1e6 * began.elapsed().as_secs_f64())
    }

    /// Runs one turn: check-outs, then check-outs with a query.
    async fn turn(&self) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let (mut gets, mut queries) = (vec![], vec![]);
        for _ in 0..CHECKOUTS {
            gets.push(self.get().await?);
        }
        for _ in 0..CHECKOUTS {
            queries.push(self.query().await?);
        }
        Ok((gets, queries))
    }
}
