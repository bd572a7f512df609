use std::cell::RefCell;
use std::io;
use std::sync::Once;

use crate::testing::{MINUTE, ScriptedSource, Step, TestClock, builder, noon, until};
use crate::{CertState, SourceError};

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is logged on this thread from here on.
///
/// One subscriber for the process: with several, tracing's cache of who is interested makes tests
/// that run side by side miss lines.
struct Log;

impl Log {
    fn capture() -> Self {
        static SET: Once = Once::new();
        SET.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_writer(|| Self)
                .init();
        });
        LOGGED.with_borrow_mut(Vec::clear);
        Self
    }

    /// The lines that hold this.
    fn lines(&self, with: &str) -> Vec<String> {
        let text = LOGGED.with_borrow(|bytes| String::from_utf8(bytes.clone()).unwrap());
        let lines = text.lines().filter(|line| line.contains(with));
        lines.map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_rotation_logs_one_line_that_identifies_the_certificate() {
    let log = Log::capture();
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE), Step::Issue(MINUTE)]);
    let live = builder(&wall).name("orders").start(source).await.unwrap();
    until("one rotation", || live.current().unwrap().generation() == 2).await;
    let lines = log.lines("certificate rotated");
    assert_eq!(lines.len(), 2, "{lines:?}");
    let snapshot = live.current().unwrap();
    for part in [
        "INFO",
        "certificate=\"orders\"",
        "generation=2",
        &format!("serial={}", snapshot.serial()),
        "issuer=\"CN=test intermediate\"",
        "common_name=\"app\"",
        "dns=[\"app.test\"]",
        "reason=Due",
    ] {
        assert!(lines[1].contains(part), "{part} is not in {}", lines[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_warnings_three_times_then_debug_until_expiry() {
    let log = Log::capture();
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE)]);
    source.then(|| Step::Fail(SourceError::unavailable("connection refused")));
    let live = builder(&wall).start(source).await.unwrap();
    until("it expires", || live.status().state == CertState::Expired).await;
    let failures = log.lines("renewal failed");
    let warned = failures.iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warned, 3, "{failures:?}");
    assert!(
        failures.len() > 5 && failures[4].contains("DEBUG"),
        "{failures:?}"
    );
    let cause = "failed to fetch the certificate: the source is unavailable: connection refused";
    assert!(failures[0].contains(cause), "{}", failures[0]);
    assert_eq!(log.lines("expires soon").len(), 1);
    until("the expiry is logged as an error", || {
        !log.lines("no valid certificate is left").is_empty()
    })
    .await;
    assert_eq!(log.lines("certificate has expired").len(), 1);
}

/// Scenario: H4
#[tokio::test(start_paused = true)]
async fn metrics_describe_the_certificate_of_new_connections() {
    // H4, the core's part.
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    // A metric by its name, and by the value of its second label where it has one.
    let read = || {
        let all = snapshotter.snapshot().into_vec();
        move |name: &str, label: Option<&str>| {
            all.iter()
                .find(|(key, ..)| {
                    let key = key.key();
                    let labels: Vec<_> = key.labels().map(|l| (l.key(), l.value())).collect();
                    key.name() == name
                        && labels.contains(&("certificate", "orders"))
                        && label.is_none_or(|label| labels.iter().any(|(_, value)| *value == label))
                })
                .map(|(.., value)| match value {
                    DebugValue::Counter(count) => *count as f64,
                    DebugValue::Gauge(gauge) => gauge.0,
                    DebugValue::Histogram(samples) => samples.len() as f64,
                })
        }
    };
    let wall = TestClock::starting_at(noon());
    let source = ScriptedSource::new(&wall, [Step::Issue(MINUTE)]);
    source.then(|| Step::Fail(SourceError::unavailable("connection refused")));
    let live = builder(&wall)
        .name("orders")
        .start(source.clone())
        .await
        .unwrap();

    let unix = |time: std::time::SystemTime| {
        time.duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    let not_after = live.current().unwrap().not_after();
    let first = read();
    assert_eq!(
        first("perennial_certificate_expiry_timestamp_seconds", None),
        Some(unix(not_after))
    );
    let due = live.status().next_fetch.map(unix);
    assert_eq!(
        first("perennial_certificate_renewal_timestamp_seconds", None),
        due
    );
    assert_eq!(first("perennial_certificate_generation", None), Some(1.0));
    assert_eq!(
        first("perennial_renewals_total", Some("rotated")),
        Some(1.0)
    );
    assert_eq!(first("perennial_fetch_duration_seconds", None), Some(1.0));

    until("it expires", || live.status().state == CertState::Expired).await;
    let last = read();
    // Retries move the next fetch, not the point at which it became due: this gauge was not set
    // again, which this recorder shows as 0.
    assert_eq!(
        last("perennial_certificate_renewal_timestamp_seconds", None),
        Some(0.0)
    );
    assert_eq!(
        last("perennial_renewal_failures", None),
        Some(f64::from(live.status().consecutive_failures))
    );

    assert_eq!(
        last("perennial_source_errors_total", Some("unavailable")),
        last("perennial_renewals_total", Some("failed"))
    );
    assert!(last("perennial_source_errors_total", Some("denied")).is_none());

    // A source that has nothing newer has not failed.
    let (one, key) = crate::testing::TestCa::new().leaf(wall.now(), 60 * MINUTE);
    let same = |chain: &rustls_pki_types::CertificateDer<'static>| {
        let (chain, roots) = (vec![chain.clone()], vec![chain.clone()]);
        Step::Deliver(
            crate::CertMaterial::from_der(chain, key.clone_key(), roots)
                .unwrap()
                .into(),
        )
    };
    let down = || Step::Fail(SourceError::unavailable("connection refused"));
    let source = ScriptedSource::new(&wall, [same(&one), down(), same(&one)]);
    let live = builder(&wall).name("orders").start(source).await.unwrap();
    for failures in [1.0, 0.0] {
        tokio::time::sleep(60 * MINUTE / 20).await;
        // Fails, then finds the same certificate.
        let _ = live.renew().await;
        assert_eq!(read()("perennial_renewal_failures", None), Some(failures));
    }
}
