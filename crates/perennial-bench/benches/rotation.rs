//! The cost of a rotation without its fetch, and of a cold start with ten thousand waiters.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the benchmark")]

use divan::Bencher;
use divan::counter::ItemsCount;
use perennial::testing::{ScriptedSource, Step, TestClock};
use perennial::{CertMaterial, LiveCert};
use perennial_bench::memory_ca::{self, MemoryCa, wall_clock};

fn main() {
    divan::main();
}

/// From DER (leaf, intermediate, P-256 key, root) to a published snapshot: parse, check, build the config.
#[divan::bench(sample_count = 1_000, sample_size = 1)]
fn snapshot_from_der(bencher: Bencher<'_, '_>) {
    let ca = MemoryCa::default();
    let (root, intermediate) = (ca.authority().root_der(), ca.authority().intermediate_der());
    bencher
        .with_inputs(|| {
            let (leaf, key) = ca.authority().leaf(wall_clock(), memory_ca::LIFETIME);
            (vec![leaf, intermediate.clone()], key, vec![root.clone()])
        })
        .bench_values(|(chain, key, roots)| {
            let material = CertMaterial::from_der(chain, key, roots).unwrap();
            LiveCert::fixed(material).unwrap()
        });
}

/// Ten thousand tasks wait for the first certificate, and one fetch serves all of them.
#[divan::bench(sample_count = 100, sample_size = 1)]
fn cold_start_with_10_000_waiters(bencher: Bencher<'_, '_>) {
    const WAITERS: usize = 10_000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    bencher
        .counter(ItemsCount::new(WAITERS))
        .with_inputs(|| {
            let clock = TestClock::starting_at(wall_clock());
            let held = Step::HeldUntilReleased(memory_ca::LIFETIME);
            (clock.clone(), ScriptedSource::new(&clock, [held]))
        })
        .bench_local_values(|(clock, source)| {
            runtime.block_on(async {
                let live = LiveCert::builder().clock(&clock);
                let live = live.start_lazy(source.clone()).unwrap();
                let waiters: Vec<_> = (0..WAITERS)
                    .map(|_| {
                        let live = live.clone();
                        tokio::spawn(async move { live.wait_valid().await.unwrap() })
                    })
                    .collect();
                tokio::task::yield_now().await;
                source.release();
                for waiter in waiters {
                    assert_eq!(waiter.await.unwrap().generation(), 1);
                }
                assert_eq!(source.fetches().len(), 1);
            });
        });
}
