use std::sync::Arc;
use std::time::SystemTime;

use crate::material::Serial;
use crate::error::RenewError;
use crate::snapshot::Snapshot;

/// How a live certificate is doing, at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CertStatus {
    /// The state in one word.
    pub state: CertState,
    /// The generation in use; `None` while there has been none.
    pub generation: Option<u64>,
    /// The serial number in use.
    pub serial: Option<Serial>,
    /// When the certificate in use expires, wall clock.
    pub not_after: Option<SystemTime>,
    /// The issuer that ends its life: see [`Snapshot::limited_by`].
    pub limited_by: Option<String>,
    /// What the CA said beside the certificate in use: see [`Snapshot::warnings`].
    pub warnings: Vec<String>,
    /// When the source is asked next, wall clock; `None` if never (a fixed certificate).
    pub next_fetch: Option<SystemTime>,
    /// Failed fetches since the last one that succeeded.
    pub consecutive_failures: u32,
    /// Why the last fetch failed; `None` once one has succeeded.
    pub last_error: Option<Arc<RenewError>>,
}

/// The states of a live certificate, and how each is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertState {
    /// No certificate yet; left by the first successful fetch.
    Starting,
    /// Valid, and its renewal point lies ahead.
    Fresh,
    /// Valid, past its renewal point, and no fetch has failed; left by a renewal.
    Due,
    /// Valid, but the last fetch failed; left by a renewal or by expiry.
    Failing,
    /// Past `not_after`: nothing is handed out; left by a renewal, which is still tried.
    Expired,
}

/// What the renewer tells about itself, next to the snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) next_fetch: Option<SystemTime>,
    /// `None` for a fixed certificate, which is never due.
    pub(crate) renewal_point: Option<SystemTime>,
    /// The last attempt published nothing: the next one is not made before `next_fetch`.
    pub(crate) pausing: bool,
    pub(crate) consecutive_failures: u32,
    pub(crate) last_error: Option<Arc<RenewError>>,
}

impl Progress {
    /// The last error, if waiting alone cannot cure it.
    pub(crate) fn permanent_error(&self) -> Option<Arc<RenewError>> {
        self.last_error
            .clone()
            .filter(|error| !error.is_transient())
    }
}

impl CertStatus {
    pub(crate) fn at(now: SystemTime, current: Option<&Snapshot>, progress: &Progress) -> Self {
        let failing = progress.consecutive_failures > 0;
        let state = match current {
            None => CertState::Starting,
            Some(snapshot) if now >= snapshot.not_after() => CertState::Expired,
            Some(_) if failing => CertState::Failing,
            Some(_) if progress.renewal_point.is_some_and(|point| now >= point) => CertState::Due,
            Some(_) => CertState::Fresh,
        };
        Self {
            state,
            generation: current.map(Snapshot::generation),
            serial: current.map(|snapshot| snapshot.serial().clone()),
            not_after: current.map(Snapshot::not_after),
            limited_by: current.and_then(Snapshot::limited_by).map(str::to_owned),
            warnings: current
                .map(|snapshot| snapshot.warnings().to_vec())
                .unwrap_or_default(),
            next_fetch: progress.next_fetch,
            consecutive_failures: progress.consecutive_failures,
            last_error: progress.last_error.clone(),
        }
    }
}
