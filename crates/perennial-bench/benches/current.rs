//! `LiveCert::current()` compared with a bare `ArcSwap::load_full` of the same snapshots.
//!
//! It does not use divan: speed varies from minute to minute on shared cores, so the two take turns
//! and are compared turn by turn.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a failed setup fails the benchmark, and its results are printed"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use perennial::{LiveCert, Renewed, Snapshot};
use perennial_bench::memory_ca::{MemoryCa, wall_clock};
use rustix::time::{ClockId, clock_gettime};

/// Turns of each side.
const TURNS: usize = 101;

/// Reads per turn and reader.
const READS: u32 = 200_000;

/// Interval between two rotations.
const INTERVAL: Duration = Duration::from_millis(10);

/// Bars: the ratio to `ArcSwap`, with one reader, and with two while a writer rotates.
const BARS: [f64; 2] = [2.0, 4.0];

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let ca = MemoryCa::default();
    let live = runtime.block_on(LiveCert::start(ca)).unwrap();
    let bare = Arc::new(ArcSwap::new(live.current().unwrap()));

    compare("one reader", 1, &live, &bare, BARS[0]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            compare(
                "two readers, 100 rotations per second",
                2,
                &live,
                &bare,
                BARS[1],
            );
            done.store(true, Ordering::Relaxed);
        });
        runtime.block_on(rotate(&live, &bare, &done));
    });
}

/// Rotates both at [`INTERVAL`] through the public API, with tokio's clock paused.
///
/// Renewals must be at least a second apart by tokio's clock, which is advanced here. Readers only
/// read the wall clock, which is the real one.
async fn rotate(live: &LiveCert, bare: &ArcSwap<Snapshot>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        thread::sleep(INTERVAL);
        tokio::time::advance(Duration::from_secs(1)).await;
        match live.renew().await {
            Ok(Renewed::Newer(snapshot)) => bare.store(snapshot),
            other => unreachable!("the CA is in memory: {other:?}"),
        }
    }
}

fn compare(what: &str, readers: usize, live: &LiveCert, bare: &ArcSwap<Snapshot>, bar: f64) {
    let (mut ours, mut theirs, mut clock, mut ratios) = (vec![], vec![], vec![], vec![]);
    for _ in 0..TURNS {
        let current = turn(readers, || live.current().unwrap());
        let load_full = turn(readers, || bare.load_full());
        clock.push(turn(readers, wall_clock));
        ratios.push(current / load_full);
        ours.push(current);
        theirs.push(load_full);
    }
    println!(
        "{what}, ns of CPU per read (median and quartiles): current() {}, ArcSwap::load_full {}, reading the wall clock {}\n  \
         ratio {}, bar {bar}",
        quartiles(ours),
        quartiles(theirs),
        quartiles(clock),
        quartiles(ratios),
    );
}

/// Nanoseconds of CPU per read, the mean of all readers; other processes may use the machine meanwhile.
fn turn<T>(readers: usize, read: impl Fn() -> T + Sync) -> f64 {
    let start = Barrier::new(readers);
    let took: Duration = thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let began = cpu_time();
                    for _ in 0..READS {
                        black_box(read());
                    }
                    cpu_time() - began
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    took.as_secs_f64() * 1e9 / f64::from(READS) / readers as f64
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn quartiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    format!("{:.1} ({:.1}-{:.1})", at(2), at(1), at(3))
}
