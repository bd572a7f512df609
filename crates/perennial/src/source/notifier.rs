//! Wakes a sleeper when something happens in the folders that it cares about.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// The system's own notification, as far as there is one.
///
/// A help only: whatever it misses, or cannot watch, the next poll finds. Its thread ends when
/// this is dropped.
#[derive(Default)]
pub(super) struct Notifier {
    woken: Arc<Notify>,
    armed: Mutex<Armed>,
}

#[derive(Default)]
struct Armed {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeMap<PathBuf, Id>,
    complained: bool,
}

/// Tells a folder from another that was put in its place.
type Id = Option<(u64, u64)>;

impl Notifier {
    /// Watches these folders and no others from now on; blocks for a moment.
    pub(super) fn watch(&self, folders: impl IntoIterator<Item = PathBuf>) {
        let wanted: BTreeMap<_, _> = folders
            .into_iter()
            .map(|folder| (folder.clone(), id(&folder)))
            .collect();
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = armed.set(wanted, &self.woken)
            && !armed.complained
        {
            armed.complained = true;
            tracing::debug!(%error, "files cannot be watched, so they are polled");
        }
    }

    /// Ready once after any number of events. Cancel-safe.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    #[cfg(test)]
    pub(super) fn weak(&self) -> std::sync::Weak<Notify> {
        Arc::downgrade(&self.woken)
    }
}

impl Armed {
    fn set(&mut self, wanted: BTreeMap<PathBuf, Id>, woken: &Arc<Notify>) -> notify::Result<()> {
        if wanted == self.folders {
            return Ok(());
        }
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(new_watcher(Arc::clone(woken))?),
        };
        for (folder, id) in std::mem::take(&mut self.folders) {
            if wanted.get(&folder) == Some(&id) {
                self.folders.insert(folder, id);
            } else {
                // It may be gone, and its watch with it.
                let _gone = watcher.unwatch(&folder);
            }
        }
        let mut outcome = Ok(());
        for (folder, id) in wanted {
            if self.folders.contains_key(&folder) {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.folders.insert(folder, id);
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}

fn new_watcher(woken: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // To be told of our own reading would be to read for ever.
        let only_read = matches!(
            &event,
            Ok(event) if matches!(event.kind, EventKind::Access(access)
                if access != AccessKind::Close(AccessMode::Write))
        );
        if !only_read {
            woken.notify_one();
        }
    })
}

#[cfg(unix)]
fn id(folder: &std::path::Path) -> Id {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(folder).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn id(_folder: &std::path::Path) -> Id {
    None
}
