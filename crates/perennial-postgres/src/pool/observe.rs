//! Reports what happens to a pool: log lines, events, metrics, counts. Decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, SystemTime};

use perennial::{Events, with_causes};
use tokio::sync::broadcast;

use crate::error::{ConnectError, FailureClass};

/// How many events a reader may be behind before it misses some.
const EVENT_BACKLOG: usize = 64;

/// Consecutive failures that are logged as warnings; further ones are logged at debug level.
const LOUD_FAILURES: u32 = 3;

/// What a pool consists of, at one moment, as this side sees it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Connections by the generation of their certificate, dedicated ones included, spares and
    /// [`draining`](Self::draining) ones excluded.
    pub by_generation: BTreeMap<u64, usize>,
    /// Connections in use that are older than the newest generation, dedicated ones included.
    pub old_in_use: usize,
    /// Connections in use whose certificate has expired, dedicated and [`draining`](Self::draining)
    /// ones included.
    pub expired_in_use: usize,
    /// Retired connections that are still open, because something runs on them, such as a row stream
    /// that a caller reads.
    pub draining: usize,
    /// When the first certificate among the open connections expires, wall clock.
    pub oldest_not_after: Option<SystemTime>,
    /// Replacements that are ready and wait for old connections to be returned.
    pub spares: usize,
    /// Replacements that are being connected.
    pub replacing: usize,
    /// Connects that have begun and are not handed out yet, replacements included.
    pub connecting: usize,
    /// Connections retired since the pool was built, by reason.
    pub retired: BTreeMap<RetireReason, u64>,
    /// Failed connects since the pool was built, by class.
    pub connect_errors: BTreeMap<FailureClass, u64>,
    /// The newest generation that the server refuses at present, if it does.
    pub refused_generation: Option<u64>,
    /// Whether the server has not asked for the certificate at the last login: then nothing of it was
    /// presented. A pooler may not ask on purpose; Postgres asks if `ssl_ca_file` is set.
    pub certificate_not_requested: bool,
    /// Why the last connect failed; `None` once one has succeeded.
    pub last_error: Option<ConnectError>,
}

impl PoolStatus {
    /// Connections retired since the pool was built, for any reason.
    pub fn retired_total(&self) -> u64 {
        self.retired.values().sum()
    }
}

/// Why a connection was retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// It was exchanged for one of a newer generation.
    Rotated,
    /// The program requested it: `retire_immediately`, `drain`, `refresh`.
    Requested,
    /// Its certificate expired, and it was idle or came back to the pool.
    Expired,
    /// It was in use past the hard limit.
    HardLimit,
    /// It was found closed, or did not answer a ping.
    Dead,
    /// It was exchanged, because its server no longer has the role that `target_session_attrs` asks for.
    RoleChanged,
    /// Its connect was given up before it was handed out: by a caller, at the connect timeout, or by
    /// `retire_immediately` or `drain`.
    GivenUp,
}

impl RetireReason {
    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Requested => "requested",
            Self::Expired => "expired",
            Self::HardLimit => "hard_limit",
            Self::Dead => "dead",
            Self::RoleChanged => "role_changed",
            Self::GivenUp => "given_up",
        }
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that happened to a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolEvent {
    /// Every connection is on this generation now, dedicated ones excepted.
    Moved {
        /// The generation.
        generation: u64,
        /// How long the move took.
        took: Duration,
    },
    /// A connection was retired.
    Retired {
        /// The generation of its certificate.
        generation: u64,
        /// Why.
        reason: RetireReason,
    },
    /// The server refuses this generation; sent once for each generation.
    CertificateRefused {
        /// The generation that was refused.
        generation: u64,
        /// The server's error is among its causes.
        error: ConnectError,
    },
    /// A connect failed.
    ConnectFailed {
        /// Why.
        error: ConnectError,
    },
    /// This reader was too slow and missed so many events.
    Missed(u64),
}

/// Counts, logs and publishes what happens to one pool.
#[derive(Debug)]
pub(crate) struct Observer {
    /// Distinguishes this pool from others in logs and metrics.
    pool: Arc<str>,
    events: broadcast::Sender<PoolEvent>,
    consecutive_failures: AtomicU32,
    /// Logs once that a server does not ask for the certificate.
    not_requested: Once,
    /// The part of the status that is counted here.
    counts: Mutex<PoolStatus>,
}

impl Observer {
    pub(crate) fn new(pool: Arc<str>) -> Self {
        Self {
            pool,
            events: broadcast::Sender::new(EVENT_BACKLOG),
            consecutive_failures: AtomicU32::new(0),
            not_requested: Once::new(),
            counts: Mutex::default(),
        }
    }

    pub(crate) fn pool(&self) -> &str {
        &self.pool
    }

    pub(crate) fn subscribe(&self) -> Events<PoolEvent> {
        Events::from_channel(self.events.subscribe(), PoolEvent::Missed)
    }

    /// A status with what is counted here, and nothing else.
    pub(crate) fn status(&self) -> PoolStatus {
        self.counts().clone()
    }

    pub(crate) fn replacing(&self, connects: usize) {
        self.counts().replacing = connects;
        self.gauge("perennial_pool_replacing", connects as f64);
    }

    pub(crate) fn connected(&self) {
        self.consecutive_failures.store(0, Ordering::Relaxed);
        self.counts().last_error = None;
    }

    pub(crate) fn connect_failed(&self, error: &ConnectError) {
        let class = error.class();
        {
            let mut counts = self.counts();
            *counts.connect_errors.entry(class).or_default() += 1;
            counts.last_error = Some(error.clone());
        }
        metrics::counter!(
            "perennial_pool_connect_errors_total",
            "pool" => self.pool().to_owned(), "class" => class.as_str()
        )
        .increment(1);
        let (pool, causes) = (self.pool(), with_causes(error));
        if self.consecutive_failures.fetch_add(1, Ordering::Relaxed) < LOUD_FAILURES {
            tracing::warn!(pool, %class, error = %causes, "failed to connect");
        } else {
            tracing::debug!(pool, %class, error = %causes, "failed to connect");
        }
        self.send(PoolEvent::ConnectFailed {
            error: error.clone(),
        });
    }

    /// Records whether the server asked for the certificate at a login.
    pub(crate) fn certificate_requested(&self, was_asked: bool) {
        self.counts().certificate_not_requested = !was_asked;
        if !was_asked {
            self.not_requested.call_once(|| {
                tracing::warn!(
                    pool = self.pool(),
                    "the server does not ask for the certificate, so this pool logs in without one; set ssl_ca_file and clientcert=verify-full there, unless it is a pooler that must not ask"
                );
            });
        }
    }

    /// Keeps an error as the last one, without counting or reporting it.
    #[cfg(feature = "bb8")]
    pub(crate) fn keep(&self, error: ConnectError) {
        self.counts().last_error = Some(error);
    }

    pub(crate) fn certificate_refused(&self, generation: u64, error: &ConnectError) {
        let (pool, causes) = (self.pool(), with_causes(error));
        tracing::warn!(pool, generation, error = %causes, "postgres refused the certificate");
        self.send(PoolEvent::CertificateRefused {
            generation,
            error: error.clone(),
        });
    }

    pub(crate) fn retired(&self, generation: u64, reason: RetireReason) {
        tracing::debug!(pool = self.pool(), generation, %reason, "retired a connection");
        *self.counts().retired.entry(reason).or_default() += 1;
        metrics::counter!(
            "perennial_pool_retired_total",
            "pool" => self.pool().to_owned(), "reason" => reason.as_str()
        )
        .increment(1);
        self.send(PoolEvent::Retired { generation, reason });
    }

    pub(crate) fn moved(&self, generation: u64, took: Duration) {
        tracing::info!(pool = self.pool(), generation, ?took, "pool moved");
        self.send(PoolEvent::Moved { generation, took });
    }

    /// Sets the gauges of a pool that no longer exists: none of its connections is open.
    pub(crate) fn pool_dropped(&self) {
        self.replacing(0);
        self.gauges(0, &PoolStatus::default());
    }

    pub(crate) fn gauges(&self, newest: u64, status: &PoolStatus) {
        let mut by_age = [("current", 0), ("previous", 0), ("older", 0)];
        for (generation, connections) in &status.by_generation {
            let age = newest.saturating_sub(*generation).min(2) as usize;
            by_age[age].1 += connections;
        }
        for (age, connections) in by_age {
            metrics::gauge!(
                "perennial_pool_connections",
                "pool" => self.pool().to_owned(), "generation_age" => age
            )
            .set(connections as f64);
        }
        let expired = status.expired_in_use as f64;
        self.gauge("perennial_pool_expired_in_use", expired);
        self.gauge("perennial_pool_draining", status.draining as f64);
        // Infinite while nothing is open: nothing expires, and no alert must fire.
        let oldest = status.oldest_not_after.map_or(f64::INFINITY, |oldest| {
            let expiry = oldest.duration_since(SystemTime::UNIX_EPOCH);
            expiry.unwrap_or_default().as_secs_f64()
        });
        self.gauge("perennial_pool_oldest_expiry_timestamp_seconds", oldest);
    }

    fn gauge(&self, name: &'static str, value: f64) {
        metrics::gauge!(name, "pool" => self.pool().to_owned()).set(value);
    }

    fn send(&self, event: PoolEvent) {
        // Fails if there is no reader.
        let _ = self.events.send(event);
    }

    fn counts(&self) -> MutexGuard<'_, PoolStatus> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
