use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use crate::error::ConnectError;
use crate::failure::FailureClass;

/// What a pool is made of, at one moment, as this side sees it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Connections by the generation of their certificate; dedicated ones too, spares not.
    pub by_generation: BTreeMap<u64, usize>,
    /// Connections that are in use and older than the newest generation; dedicated ones too.
    pub old_in_use: usize,
    /// Connections that are in use though their certificate has expired; dedicated ones and
    /// [`leaving`](Self::leaving) too.
    pub expired_in_use: usize,
    /// Connections that the pool has let go of and that still finish what runs on them, such as a row
    /// stream that somebody reads.
    pub leaving: usize,
    /// When the first certificate among the open connections expires, wall clock.
    pub oldest_not_after: Option<SystemTime>,
    /// Replacements that stand ready for old connections to come back.
    pub spares: usize,
    /// Replacements that are being connected.
    pub replacing: usize,
    /// Connections retired since the manager was built, by reason.
    pub retired: BTreeMap<RetireReason, u64>,
    /// Failed connects since the manager was built, by class.
    pub connect_errors: BTreeMap<FailureClass, u64>,
    /// The newest generation that the server refuses at present, if it does.
    pub refused_generation: Option<u64>,
    /// Why the last connect failed; `None` once one has succeeded.
    pub last_error: Option<ConnectError>,
}

impl PoolStatus {
    /// Connections retired since the manager was built, for whatever reason.
    pub fn retired_in_all(&self) -> u64 {
        self.retired.values().sum()
    }
}

/// Why a connection was retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// A newer generation took its place.
    Rotated,
    /// Somebody asked for it: [`Retire::Immediately`], `refresh`, `drain`.
    Asked,
    /// Its certificate expired, and it was idle or came back.
    Expired,
    /// It was in use past the hard limit.
    HardLimit,
    /// It was found closed, or did not answer a ping.
    Dead,
}

impl RetireReason {
    /// The name that metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Asked => "asked",
            Self::Expired => "expired",
            Self::HardLimit => "hard_limit",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How urgent [`retire_now`](crate::CertConnectionManager::retire_now) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retire {
    /// Idle connections are exchanged at once, each replacement ready first; those in use when they
    /// come back.
    Gently,
    /// Every older connection is closed now, those in use after their query was cancelled: for a
    /// key that may have leaked.
    Immediately,
}

/// What came of [`retire_now`](crate::CertConnectionManager::retire_now).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retired {
    /// What stays is of this generation. If that is the one that was to go, nothing was older:
    /// renew first.
    pub generation: u64,
    /// Older connections that are gone.
    pub retired: usize,
    /// Older connections that are left: in use, finishing what runs on them, or idle because no
    /// replacement could be connected.
    pub left: usize,
}

/// What came of [`drain`](crate::CertConnectionManager::drain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that were still open at the deadline: in use, or finishing what runs on them.
    pub left: usize,
}
