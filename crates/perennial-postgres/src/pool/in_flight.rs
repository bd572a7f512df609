use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The connects that have begun and whose sessions are not handed out yet.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<Vec<Arc<Entry>>>);

/// One connect in flight.
pub(crate) struct Entry {
    generation: u64,
    is_cut: AtomicBool,
    cut: Notify,
}

impl Entry {
    /// Waits until the connect is cut.
    pub(crate) async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl InFlight {
    pub(crate) fn add(&self, generation: u64) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            generation,
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        });
        self.lock().push(Arc::clone(&entry));
        entry
    }

    pub(crate) fn remove(&self, entry: &Arc<Entry>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, entry));
    }

    /// Calls `put` and removes the entry, unless it was cut.
    ///
    /// Under the lock: a session is always either here or where `put` has put it, and none is handed
    /// out after a cut.
    pub(crate) fn hand_over(&self, entry: &Arc<Entry>, put: impl FnOnce()) {
        let mut entries = self.lock();
        if !entry.is_cut.load(Ordering::Relaxed) {
            put();
            entries.retain(|other| !Arc::ptr_eq(other, entry));
        }
    }

    /// Ends the connects older than this generation; [`u64::MAX`] for all.
    pub(crate) fn cut_older_than(&self, generation: u64) {
        for entry in self.lock().iter() {
            if entry.generation < generation {
                entry.is_cut.store(true, Ordering::Relaxed);
                entry.cut.notify_one();
            }
        }
    }

    /// The number of connects older than this generation; [`u64::MAX`] for all.
    pub(crate) fn older_than(&self, generation: u64) -> usize {
        let entries = self.lock();
        let is_older = |entry: &&Arc<Entry>| entry.generation < generation;
        entries.iter().filter(is_older).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
