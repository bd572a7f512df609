use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::snapshot::Snapshot;
use crate::unwind::{Panicked, contained};

/// How long a gate may take before it counts as [`Verdict::CannotTell`].
pub const GATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries a new certificate out before anybody gets it.
///
/// Called by the renewer alone, under [`GATE_TIMEOUT`], with a candidate that has passed every
/// check. While a candidate is refused, the certificate in use stays; the candidate is tried again
/// at the backoff's pace and not fetched anew until it is due itself.
///
/// # Example
/// ```
/// use perennial::{Gate, Snapshot, Verdict};
///
/// /// Lets only our own name through.
/// #[derive(Debug)]
/// struct Named(&'static str);
///
/// impl Gate for Named {
///     async fn check(&self, candidate: &Snapshot) -> Verdict {
///         match candidate.names().common_name.as_deref() {
///             Some(name) if name == self.0 => Verdict::Accept,
///             other => Verdict::refuse(format!("it names {other:?}")),
///         }
///     }
/// }
/// ```
pub trait Gate: Send + Sync + 'static {
    /// Says whether this candidate may be published.
    ///
    /// # Cancel safety
    /// The future is dropped at the timeout and at shutdown.
    fn check(&self, candidate: &Snapshot) -> impl Future<Output = Verdict> + Send;
}

/// What a [`Gate`] found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It works: publish it.
    Accept,
    /// It does not work: keep the one in use.
    Refuse(Box<dyn Error + Send + Sync>),
    /// The gate itself failed, as when the server to ask is down: published all the same, since
    /// that must not let the certificate expire.
    CannotTell(Box<dyn Error + Send + Sync>),
}

impl Verdict {
    /// [`Verdict::Refuse`] with this cause, which is logged and must hold no secret.
    pub fn refuse(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refuse(cause.into())
    }

    /// [`Verdict::CannotTell`] with this cause, which is logged and must hold no secret.
    pub fn cannot_tell(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::CannotTell(cause.into())
    }
}

/// `Gate` with boxed futures.
pub(crate) trait DynGate: Send + Sync {
    fn check<'a>(
        &'a self,
        candidate: &'a Snapshot,
    ) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;
}

impl<G: Gate> DynGate for G {
    fn check<'a>(
        &'a self,
        candidate: &'a Snapshot,
    ) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>> {
        Box::pin(Gate::check(self, candidate))
    }
}

/// Asks a gate, with its timeout.
pub(crate) async fn verdict(gate: Option<&dyn DynGate>, candidate: &Snapshot) -> Verdict {
    let Some(gate) = gate else {
        return Verdict::Accept;
    };
    match tokio::time::timeout(GATE_TIMEOUT, contained(gate.check(candidate))).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(Panicked)) => Verdict::cannot_tell("the gate panicked"),
        Err(_elapsed) => Verdict::cannot_tell(format!("no verdict within {GATE_TIMEOUT:?}")),
    }
}
