//! A pool's metrics compared with what the server sees.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::SystemTime;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use perennial::LiveCert;
use perennial_tests::{HOUR, Stage, eventually, full_pool, renew};

/// The values of all metrics; install it before the first one is recorded.
///
/// Each snapshot empties the recorder, so values are accumulated here: counters are summed, and a
/// gauge at zero was not set again.
struct Recorded {
    recorder: Snapshotter,
    seen: BTreeMap<String, f64>,
}

impl Recorded {
    fn install() -> Self {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        // The only recorder in this test binary.
        recorder.install().unwrap();
        Self {
            recorder: snapshotter,
            seen: BTreeMap::new(),
        }
    }

    /// The value of a metric by its name and label values, such as `name/a/b`.
    fn value(&mut self, name: &str) -> Option<f64> {
        for (key, _, _, value) in self.recorder.snapshot().into_vec() {
            let key = key.key();
            let labels = key.labels().map(|label| format!("/{}", label.value()));
            let seen = self
                .seen
                .entry(format!("{}{}", key.name(), labels.collect::<String>()))
                .or_default();
            match value {
                DebugValue::Counter(more) => *seen += more as f64,
                DebugValue::Gauge(now) if now.into_inner() != 0.0 => *seen = now.into_inner(),
                DebugValue::Gauge(_) | DebugValue::Histogram(_) => {}
            }
        }
        self.seen.get(name).copied()
    }
}

fn unix(at: SystemTime) -> Option<f64> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    Some(since.unwrap().as_secs_f64())
}

/// Scenario: H4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_gauges_show_the_newest_and_the_oldest_certificate_in_use() {
    // One connection stays in use on the old certificate.
    let mut metrics = Recorded::install();
    let stage = Stage::set().await;
    let source = stage.pki().ttl(HOUR).build().unwrap();
    let live = LiveCert::builder().name("h4").start(source).await.unwrap();
    let pool = full_pool(stage.pool(&live).name("h4"), 2).await;
    let in_use = pool.get().await.unwrap();
    in_use.batch_execute("begin").await.unwrap();
    let old = in_use.snapshot();
    let newest = renew(&live).await;
    assert_ne!(old.not_after(), newest.not_after());

    eventually("the gauges show one of each", async || {
        metrics.value("perennial_pool_connections/h4/current") == Some(1.0)
            && metrics.value("perennial_pool_connections/h4/previous") == Some(1.0)
    })
    .await;
    let oldest = "perennial_pool_oldest_expiry_timestamp_seconds/h4";
    assert_eq!(metrics.value(oldest), unix(old.not_after()));
    let current = "perennial_certificate_expiry_timestamp_seconds/h4";
    assert_eq!(metrics.value(current), unix(newest.not_after()));
    // The server sees the same; a spare waits for the one in use.
    let both = [&old, &newest].map(|snapshot| snapshot.serial().to_decimal());
    assert_eq!(stage.distinct_serials().await, both.into());

    in_use.batch_execute("commit").await.unwrap();
    drop(in_use);
    eventually("the gauges follow", async || {
        metrics.value("perennial_pool_connections/h4/current") == Some(2.0)
            && metrics.value(oldest) == unix(newest.not_after())
    })
    .await;
    stage.all_on(&newest, 2).await;
    let retired = "perennial_pool_retired_total/h4/rotated";
    assert_eq!(metrics.value(retired), Some(2.0));
    stage.testbed.postgres.stop().await.unwrap();
    eventually("failed connects are counted by class", async || {
        let failed = "perennial_pool_connect_errors_total/h4/unreachable";
        metrics.value(failed).is_some_and(|count| count > 0.0)
    })
    .await;
}
