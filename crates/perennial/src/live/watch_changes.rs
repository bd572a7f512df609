use std::sync::Arc;

use tokio::sync::watch;

use super::LiveCert;
use crate::snapshot::Snapshot;
use crate::status::{CertState, CertStatus, Progress};

/// New generations as they come; holds no renewer alive.
///
/// Shows the latest value: generations only grow, and a slow reader may skip some.
#[derive(Clone, Debug)]
pub struct Rotations {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

impl Rotations {
    /// The next snapshot not yet seen through this handle; the present one at first.
    ///
    /// `None` once the renewer has ended.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        loop {
            self.snapshots.changed().await.ok()?;
            if let Some(snapshot) = &*self.snapshots.borrow_and_update() {
                return Some(Arc::clone(snapshot));
            }
        }
    }

    /// The latest snapshot, seen before or not.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }
}

/// Changes of a live certificate's status; holds no renewer alive.
#[derive(Debug)]
pub struct StatusChanges {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) clock: crate::clock::Clock,
    pub(super) last: Option<(CertState, Option<u64>, u32)>,
}

impl StatusChanges {
    /// The next status whose state, generation or count of failures differs; the present one first.
    ///
    /// `None` once the renewer has ended.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<CertStatus> {
        loop {
            // Marked as seen before it is read: what comes in between is seen again.
            let progress = self.progress.borrow_and_update().clone();
            let current = self.snapshots.borrow().clone();
            let status = CertStatus::at(self.clock.now(), current.as_deref(), &progress);
            let now = (status.state, status.generation, status.consecutive_failures);
            if self.last != Some(now) {
                self.last = Some(now);
                return Some(status);
            }
            self.progress.changed().await.ok()?;
        }
    }
}

impl LiveCert {
    /// Watches for new generations, beginning with the one there is now.
    pub fn rotations(&self) -> Rotations {
        let mut snapshots = self.shared.snapshots.clone();
        // What is published between here and the first read must be seen.
        snapshots.mark_changed();
        Rotations { snapshots }
    }

    /// Watches for changes of the status, beginning with the present one.
    pub fn status_changes(&self) -> StatusChanges {
        StatusChanges {
            progress: self.shared.progress.clone(),
            snapshots: self.shared.snapshots.clone(),
            clock: self.shared.clock.clone(),
            last: None,
        }
    }
}
