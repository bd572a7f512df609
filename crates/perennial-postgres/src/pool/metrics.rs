//! Metrics through the `metrics` facade, behind the feature of that name.
//!
//! Their names and units stand on the crate's front page.

#[cfg(feature = "metrics")]
mod facade {
    use std::time::SystemTime;

    use crate::failure::FailureClass;
    use crate::pool::status::{PoolStatus, RetireReason};

    pub(crate) fn connect_failed(pool: &str, class: FailureClass) {
        metrics::counter!(
            "perennial_pool_connect_errors_total",
            "pool" => pool.to_owned(), "class" => class.as_str()
        )
        .increment(1);
    }

    pub(crate) fn retired(pool: &str, reason: RetireReason) {
        metrics::counter!(
            "perennial_pool_retired_total",
            "pool" => pool.to_owned(), "reason" => reason.as_str()
        )
        .increment(1);
    }

    pub(crate) fn replacing(pool: &str, connects: usize) {
        metrics::gauge!("perennial_pool_replacing", "pool" => pool.to_owned()).set(connects as f64);
    }

    /// The pool is gone: nothing of it is open any more.
    pub(crate) fn gone(pool: &str) {
        replacing(pool, 0);
        made_of(pool, 0, PoolStatus::default);
    }

    pub(crate) fn made_of(pool: &str, newest: u64, status: impl FnOnce() -> PoolStatus) {
        let status = status();
        let gauge = |name: &'static str, value: f64| {
            metrics::gauge!(name, "pool" => pool.to_owned()).set(value);
        };
        let mut by_age = [("current", 0), ("previous", 0), ("older", 0)];
        for (generation, connections) in &status.by_generation {
            let age = newest.saturating_sub(*generation).min(2) as usize;
            by_age[age].1 += connections;
        }
        for (age, connections) in by_age {
            metrics::gauge!(
                "perennial_pool_connections",
                "pool" => pool.to_owned(), "generation_age" => age
            )
            .set(connections as f64);
        }
        gauge(
            "perennial_pool_expired_in_use",
            status.expired_in_use as f64,
        );
        gauge("perennial_pool_leaving", status.leaving as f64);
        // With nothing open nothing expires, and no alert must fire.
        let oldest = status.oldest_not_after.map_or(f64::INFINITY, |oldest| {
            let expiry = oldest.duration_since(SystemTime::UNIX_EPOCH);
            expiry.unwrap_or_default().as_secs_f64()
        });
        gauge("perennial_pool_oldest_expiry_timestamp_seconds", oldest);
    }
}

#[cfg(not(feature = "metrics"))]
mod facade {
    use crate::failure::FailureClass;
    use crate::pool::status::{PoolStatus, RetireReason};

    pub(crate) fn connect_failed(_pool: &str, _class: FailureClass) {}
    pub(crate) fn retired(_pool: &str, _reason: RetireReason) {}
    pub(crate) fn replacing(_pool: &str, _connects: usize) {}
    pub(crate) fn gone(_pool: &str) {}
    pub(crate) fn made_of(_pool: &str, _newest: u64, _status: impl FnOnce() -> PoolStatus) {}
}

pub(crate) use facade::{connect_failed, gone, made_of, replacing, retired};
