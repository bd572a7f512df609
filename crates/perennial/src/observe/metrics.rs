//! Metrics through the `metrics` facade. Their names and units stand on the crate's front page.

use std::time::{Duration, SystemTime};

use crate::error::SourceErrorKind;
use crate::snapshot::Snapshot;

pub(super) fn in_use(name: &str, snapshot: &Snapshot, renewal_point: SystemTime) {
    let gauge = |metric: &'static str, value: f64| {
        metrics::gauge!(metric, "certificate" => name.to_owned()).set(value);
    };
    gauge(
        "perennial_certificate_expiry_timestamp_seconds",
        unix_seconds(snapshot.not_after()),
    );
    gauge(
        "perennial_certificate_renewal_timestamp_seconds",
        unix_seconds(renewal_point),
    );
    gauge(
        "perennial_certificate_generation",
        snapshot.generation() as f64,
    );
}

fn unix_seconds(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

pub(super) fn source_failed(name: &str, kind: SourceErrorKind) {
    let kind = match kind {
        SourceErrorKind::Denied => "denied",
        SourceErrorKind::Invalid => "invalid",
        SourceErrorKind::NotConfigured => "not_configured",
        SourceErrorKind::Unavailable => "unavailable",
    };
    metrics::counter!("perennial_source_errors_total", "certificate" => name.to_owned(), "kind" => kind)
        .increment(1);
}

pub(super) fn attempted(name: &str, result: &'static str, took: Duration, failures: u32) {
    let name = name.to_owned();
    metrics::gauge!("perennial_renewal_failures", "certificate" => name.clone())
        .set(f64::from(failures));
    metrics::counter!("perennial_renewals_total", "certificate" => name.clone(), "result" => result)
        .increment(1);
    metrics::histogram!("perennial_fetch_duration_seconds", "certificate" => name)
        .record(took.as_secs_f64());
}
