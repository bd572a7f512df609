//! Metrics through the `metrics` facade, behind the feature of that name.
//!
//! Their names and units stand on the crate's front page.

use std::time::{Duration, SystemTime};

use crate::error::SourceErrorKind;
use crate::signals::Outcome;
use crate::snapshot::Snapshot;

/// How often the remaining seconds are told while nothing else happens.
#[cfg(feature = "metrics")]
pub(crate) const REFRESH: Option<Duration> = Some(Duration::from_secs(15));
#[cfg(not(feature = "metrics"))]
pub(crate) const REFRESH: Option<Duration> = None;

#[cfg(feature = "metrics")]
mod facade {
    use super::{Duration, Outcome, Snapshot, SourceErrorKind, SystemTime};

    pub(crate) fn in_use(
        name: &str,
        snapshot: &Snapshot,
        renewal_point: Option<SystemTime>,
        now: SystemTime,
    ) {
        let gauge = |metric: &'static str, value: f64| {
            metrics::gauge!(metric, "certificate" => name.to_owned()).set(value);
        };
        let expiry = unix_seconds(snapshot.not_after());
        gauge("perennial_certificate_expiry_timestamp_seconds", expiry);
        gauge(
            "perennial_certificate_remaining_seconds",
            expiry - unix_seconds(now),
        );
        if let Some(point) = renewal_point {
            gauge(
                "perennial_certificate_renewal_timestamp_seconds",
                unix_seconds(point),
            );
        }
        gauge(
            "perennial_certificate_generation",
            snapshot.generation() as f64,
        );
    }

    fn unix_seconds(at: SystemTime) -> f64 {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs_f64()
    }

    pub(crate) fn source_failed(name: &str, kind: SourceErrorKind) {
        let kind = match kind {
            SourceErrorKind::Denied => "denied",
            SourceErrorKind::Invalid => "invalid",
            SourceErrorKind::NotConfigured => "not_configured",
            SourceErrorKind::Unavailable => "unavailable",
        };
        metrics::counter!("perennial_source_errors_total", "certificate" => name.to_owned(), "kind" => kind)
            .increment(1);
    }

    pub(crate) fn fetched(name: &str, outcome: Outcome, took: Duration, failures: u32) {
        let result = match outcome {
            Outcome::Rotated => "rotated",
            Outcome::Unchanged => "unchanged",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        };
        let name = name.to_owned();
        metrics::gauge!("perennial_renewal_failures", "certificate" => name.clone())
            .set(f64::from(failures));
        metrics::counter!("perennial_renewals_total", "certificate" => name.clone(), "result" => result)
            .increment(1);
        metrics::histogram!("perennial_fetch_duration_seconds", "certificate" => name)
            .record(took.as_secs_f64());
    }
}

#[cfg(not(feature = "metrics"))]
mod facade {
    use super::{Duration, Outcome, Snapshot, SourceErrorKind, SystemTime};

    pub(crate) fn in_use(
        _name: &str,
        _snapshot: &Snapshot,
        _renewal_point: Option<SystemTime>,
        _now: SystemTime,
    ) {
    }
    pub(crate) fn source_failed(_name: &str, _kind: SourceErrorKind) {}
    pub(crate) fn fetched(_name: &str, _outcome: Outcome, _took: Duration, _failures: u32) {}
}

pub(crate) use facade::{fetched, in_use, source_failed};
