use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;

use crate::snapshot::Snapshot;

/// How long a gate may take before it counts as [`Verdict::Inconclusive`].
const GATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Tests a new certificate before it is published.
///
/// The renewer alone calls it, with a candidate that has passed every check. While a candidate is
/// refused, the certificate in use stays; the renewer tests the candidate again at the back-off's
/// pace and fetches another one only when the candidate itself is due.
///
/// # Defaults
/// A gate that takes longer than 10 s is [inconclusive](Verdict::Inconclusive).
///
/// # Example
/// ```
/// use perennial::{Gate, Snapshot, Verdict};
///
/// /// Accepts only our own name.
/// #[derive(Debug)]
/// struct Named(&'static str);
///
/// impl Gate for Named {
///     async fn check(&self, candidate: &Snapshot) -> Verdict {
///         match candidate.names().common_name.as_deref() {
///             Some(name) if name == self.0 => Verdict::Accept,
///             other => Verdict::refuse(format!("unexpected common name {other:?}")),
///         }
///     }
/// }
/// ```
pub trait Gate: Send + Sync + 'static {
    /// Judges whether this candidate may be published.
    ///
    /// # Cancel safety
    /// The renewer drops the future at the timeout and at shutdown.
    fn check(&self, candidate: &Snapshot) -> impl Future<Output = Verdict> + Send;
}

/// The result of a [`Gate`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It works: publish it.
    Accept,
    /// It does not work: keep the certificate in use.
    Refuse(Box<dyn Error + Send + Sync>),
    /// The gate itself failed, for example because its server is down. The certificate is
    /// published anyway: a broken gate must not let the certificate in use expire.
    Inconclusive(Box<dyn Error + Send + Sync>),
}

impl Verdict {
    /// [`Verdict::Refuse`] with this cause, which is logged and must hold no secret.
    pub fn refuse(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refuse(cause.into())
    }

    /// [`Verdict::Inconclusive`] with this cause, which is logged and must hold no secret.
    pub fn inconclusive(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Inconclusive(cause.into())
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

/// Runs a gate under its timeout.
pub(crate) async fn verdict(gate: Option<&dyn DynGate>, candidate: &Snapshot) -> Verdict {
    let Some(gate) = gate else {
        return Verdict::Accept;
    };
    // A panic of the gate must not end the renewer.
    let check = AssertUnwindSafe(gate.check(candidate)).catch_unwind();
    match tokio::time::timeout(GATE_TIMEOUT, check).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_panic)) => Verdict::inconclusive("the gate panicked"),
        Err(_elapsed) => Verdict::inconclusive(format!("no verdict within {GATE_TIMEOUT:?}")),
    }
}
