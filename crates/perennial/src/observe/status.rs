use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::{Deadline, Moment};
use crate::error::RenewError;
use crate::material::Serial;
use crate::snapshot::Snapshot;

/// How a live certificate is doing, at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CertStatus {
    /// The state in one word.
    pub state: CertState,
    /// The generation in use; `None` before the first certificate.
    pub generation: Option<u64>,
    /// The serial number in use.
    pub serial: Option<Serial>,
    /// When the certificate in use expires, wall clock.
    pub not_after: Option<SystemTime>,
    /// How long ago the certificate in use expired, by the wall clock or by the monotonic one,
    /// whichever says so for longer; `None` while it is valid.
    ///
    /// For a liveness probe: a restart may help once this exceeds the certificate's lifetime.
    pub expired_for: Option<Duration>,
    /// The issuer that limits its lifetime: see [`Snapshot::limited_by`].
    pub limited_by: Option<String>,
    /// Warnings about the certificate in use, the CA's and our own: see [`Snapshot::warnings`].
    pub warnings: Vec<String>,
    /// When the renewer fetches next, wall clock; `None` if never (a fixed certificate).
    pub next_fetch: Option<SystemTime>,
    /// Failed fetches since the last one that succeeded.
    pub consecutive_failures: u32,
    /// Why the last fetch failed; `None` once one has succeeded.
    pub last_error: Option<RenewError>,
}

/// The states of a live certificate, and how each ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertState {
    /// No certificate yet; ends with the first successful fetch.
    Starting,
    /// Valid, and its renewal point lies ahead.
    Fresh,
    /// Valid, past its renewal point, and no fetch has failed; ends with a renewal.
    Due,
    /// Valid, but the last fetch failed; ends with a renewal or at expiry.
    Failing,
    /// Past its end, by either clock: [`LiveCert::current`](crate::LiveCert::current) fails; ends with a
    /// renewal, which is still tried.
    Expired,
    /// The renewer has ended: by a shutdown, or because its runtime did. Nothing is renewed any
    /// more. [`LiveCert::current`](crate::LiveCert::current) returns the last certificate until it
    /// expires; [`LiveCert::is_ready`](crate::LiveCert::is_ready) returns `false`.
    Stopped,
}

/// What the renewer publishes: the certificate in use and its renewal, always together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) renewal: Renewal,
}

/// The state of the renewal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Renewal {
    pub(crate) next_fetch: Option<Deadline>,
    /// `None` for a fixed certificate, which is never due.
    pub(crate) renewal_point: Option<Deadline>,
    /// The last attempt published nothing: the next one waits for `next_fetch`.
    pub(crate) pausing: bool,
    pub(crate) consecutive_failures: u32,
    pub(crate) last_error: Option<RenewError>,
}

impl Renewal {
    /// The last error, if waiting alone cannot cure it.
    pub(crate) fn permanent_error(&self) -> Option<&RenewError> {
        self.last_error
            .as_ref()
            .filter(|error| !error.is_transient())
    }
}

impl CertStatus {
    pub(crate) fn at(now: Moment, published: &Published, has_stopped: bool) -> Self {
        let Published { snapshot, renewal } = published;
        let current = snapshot.as_deref();
        let expired_for = current.and_then(|current| current.end().passed_for(now));
        let is_due = |point: Deadline| point.has_passed(now);
        let state = match current {
            _ if has_stopped => CertState::Stopped,
            None => CertState::Starting,
            Some(_) if expired_for.is_some() => CertState::Expired,
            Some(_) if renewal.consecutive_failures > 0 => CertState::Failing,
            Some(_) if renewal.renewal_point.is_some_and(is_due) => CertState::Due,
            Some(_) => CertState::Fresh,
        };
        Self {
            state,
            generation: current.map(Snapshot::generation),
            serial: current.map(|snapshot| snapshot.serial().clone()),
            not_after: current.map(Snapshot::not_after),
            expired_for,
            limited_by: current.and_then(Snapshot::limited_by).map(str::to_owned),
            warnings: current.map_or_else(Vec::new, |snapshot| snapshot.warnings().to_vec()),
            next_fetch: renewal.next_fetch.map(|next| next.wall(now)),
            consecutive_failures: renewal.consecutive_failures,
            last_error: renewal.last_error.clone(),
        }
    }
}
