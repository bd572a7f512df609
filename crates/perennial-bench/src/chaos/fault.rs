//! The faults: what each hits, and for how long.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// Something that goes wrong, and is put right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[expect(missing_docs, reason = "each has its name in `Fault::name`")]
pub enum Fault {
    LeaderKilled,
    LeaderHung,
    LeaderSealed,
    LeaderCutOff,
    AllCutOff,
    QuorumLost,
    CredentialReplaced,
    AuthorityRotated,
    CertificateRevoked,
    ClientClock,
    ServerClock,
    ClientStopped,
    DiskFull,
    DiskReadOnly,
    DiskHanging,
    Restarted,
    FailedOver,
    ConnectionsUsedUp,
    ListExpired,
}

/// What a fault touches; two faults together touch different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The cluster of OpenBao.
    Bao,
    /// Both Postgres servers.
    Postgres,
    /// The file system of the saved certificates.
    Disk,
    /// The process with the pools.
    Client,
}

use Place::{Bao, Client, Disk, Postgres};

impl Fault {
    /// All faults.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// What a reader of the summary sees.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeaderKilled => "OpenBao's leader killed",
            Self::LeaderHung => "OpenBao's leader hung",
            Self::LeaderSealed => "OpenBao's leader sealed",
            Self::LeaderCutOff => "client cut off from the leader",
            Self::AllCutOff => "client cut off from all nodes",
            Self::QuorumLost => "quorum lost (two of three hung)",
            Self::CredentialReplaced => "secret_id replaced, tokens revoked",
            Self::AuthorityRotated => "root changed, intermediate cross-signed",
            Self::CertificateRevoked => "certificate revoked",
            Self::ClientClock => "client's clock stepped",
            Self::ServerClock => "Postgres' clock stepped",
            Self::ClientStopped => "client stopped and continued",
            Self::DiskFull => "disk full",
            Self::DiskReadOnly => "disk read-only",
            Self::DiskHanging => "disk hanging (fsfreeze)",
            Self::Restarted => "Postgres restarted",
            Self::FailedOver => "Postgres failed over",
            Self::ConnectionsUsedUp => "max_connections reached",
            Self::ListExpired => "revocation list expired",
        }
    }

    /// Whether Postgres itself cannot serve the client meanwhile: only then may a query fail.
    pub fn is_at_postgres(self) -> bool {
        matches!(
            self,
            Self::Restarted | Self::FailedOver | Self::ConnectionsUsedUp | Self::ListExpired
        )
    }

    /// What it touches, or needs in order to be put right.
    pub fn places(self) -> &'static [Place] {
        match self {
            Self::LeaderKilled
            | Self::LeaderHung
            | Self::LeaderSealed
            | Self::LeaderCutOff
            | Self::AllCutOff
            | Self::QuorumLost
            | Self::CredentialReplaced => &[Bao],
            Self::AuthorityRotated | Self::CertificateRevoked | Self::ListExpired => {
                &[Bao, Postgres]
            }
            Self::ServerClock | Self::Restarted | Self::FailedOver | Self::ConnectionsUsedUp => {
                &[Postgres]
            }
            Self::DiskFull | Self::DiskReadOnly | Self::DiskHanging => &[Disk],
            Self::ClientClock | Self::ClientStopped => &[Client],
        }
    }

    /// Whether both can be under way at once.
    pub fn goes_with(self, other: Self) -> bool {
        let both = [self, other];
        // Each shortens how long a certificate can be used: together more than the schedule promises to survive.
        let outlasts = both.iter().all(|fault| {
            matches!(
                fault,
                Self::ClientClock | Self::ClientStopped | Self::AllCutOff | Self::QuorumLost
            )
        });
        !outlasts
            && self
                .places()
                .iter()
                .all(|place| !other.places().contains(place))
    }

    /// The shortest and the longest time that it lasts, in milliseconds, without what putting it right takes.
    pub fn lasts(self) -> (Duration, Duration) {
        let (shortest, longest) = match self {
            Self::LeaderKilled | Self::LeaderHung | Self::LeaderSealed => (1_000, 6_000),
            Self::LeaderCutOff => (1_000, 8_000),
            Self::AllCutOff => (1_000, 5_000),
            Self::QuorumLost => (1_000, 3_000),
            Self::CredentialReplaced | Self::CertificateRevoked => (3_000, 6_000),
            // All certificates are renewed once in each half.
            Self::AuthorityRotated => (20_000, 24_000),
            Self::ClientClock | Self::ServerClock => (3_000, 8_000),
            Self::ClientStopped => (1_000, 6_000),
            Self::DiskFull | Self::DiskReadOnly | Self::DiskHanging => (3_000, 10_000),
            Self::Restarted | Self::FailedOver => (0, 500),
            Self::ConnectionsUsedUp => (1_000, 3_000),
            // From the list's expiry on.
            Self::ListExpired => (500, 2_500),
        };
        (
            Duration::from_millis(shortest),
            Duration::from_millis(longest),
        )
    }
}
