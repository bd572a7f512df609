//! What the process with the pools is given, and what it reports, a line of JSON each.

use std::ops::Add;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::memory_ca::wall_clock;

/// A moment of the machine's monotonic clock, the same in all processes, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// By the kernel itself: libfaketime does not reach it.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        Self(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// How many seconds this process's wall clock is ahead of the machine's, which the kernel has.
    pub fn wall_clock_ahead() -> i64 {
        let ours = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
        let machine = clock_gettime(ClockId::Realtime);
        let ahead = ours.as_millis() as i64 - machine.tv_sec * 1_000 - machine.tv_nsec / 1_000_000;
        (ahead as f64 / 1_000.0).round() as i64
    }

    /// The time since an earlier moment; zero since a later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0 + wait.as_nanos() as u64)
    }
}

/// What the process with the pools needs.
#[derive(Clone, Serialize, Deserialize)]
pub struct Setup {
    /// The nodes of OpenBao, through proxies.
    pub addresses: Vec<String>,
    /// The CA of their listeners.
    pub ca_pem: String,
    /// The AppRole.
    pub role_id: String,
    /// The file of its secret_id.
    pub secret_id: PathBuf,
    /// The mount of the PKI.
    pub mount: String,
    /// Its role.
    pub role: String,
    /// The ports of the two Postgres servers.
    pub ports: Vec<u16>,
    /// The folder in which certificates are saved, if any.
    pub saved: Option<PathBuf>,
    /// How many certificates, each with a pool.
    pub certificates: usize,
}

/// What the process with the pools reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// Every pool is open, and the load begins.
    Ready,
    /// A certificate was published.
    Published {
        /// Which of the certificates.
        certificate: usize,
        /// Whether it is the first one.
        is_first: bool,
        /// When.
        at: Moment,
        /// Its serial number, in decimal.
        serial: String,
        /// The same as OpenBao writes it.
        hex: String,
        /// How many seconds the process's wall clock was ahead of the machine's.
        ahead: i64,
    },
    /// Every query and connect that began before this moment has ended.
    EndedBefore(Moment),
    /// A query failed.
    Failed {
        /// When its caller asked for a connection.
        began: Moment,
        /// When it failed.
        ended: Moment,
        /// Which pool.
        certificate: usize,
        /// The error's class.
        cause: String,
        /// The whole error.
        text: String,
    },
    /// The load has ended.
    Done {
        /// Queries that were answered.
        answered: u64,
        /// Connects of their own that succeeded, each with a query.
        connects: u64,
        /// The longest time between asking for a connection and the answer.
        longest: Duration,
    },
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}
