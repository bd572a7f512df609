//! Wakes a sleeper when the system notifies of a change on the way to its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// The most links on the way to a file; more are a circle (Linux follows 40).
const MOST_LINKS: usize = 40;

/// The folders to watch for a change of this file: its own, and that of every link on the way.
///
/// A link is replaced in the folder that contains it: Kubernetes replaces `..data` next to the
/// link through it, certbot the links in `live/`. If a part of the path does not exist, the last
/// existing folder, so that its creation is noticed.
pub(super) fn folders_on_the_way_to(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let Ok(path) = std::path::absolute(path) else {
        return folders;
    };
    let mut at = PathBuf::new();
    let mut links = 0;
    // The rest of the path, the next step last.
    let mut ahead: Vec<OsString> = steps(&path);
    while let Some(step) = ahead.pop() {
        let next = match Path::new(&step).components().next() {
            Some(Component::Normal(name)) => at.join(name),
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::RootDir | Component::Prefix(_)) => {
                at.push(&step);
                continue;
            }
            Some(Component::CurDir) | None => continue,
        };
        if let Ok(target) = next.read_link() {
            folders.insert(at.clone());
            links += 1;
            if links > MOST_LINKS {
                return folders;
            }
            // An absolute target begins with the root, which replaces `at` when pushed.
            ahead.extend(steps(&target));
        } else if ahead.is_empty() || next.symlink_metadata().is_err() {
            folders.insert(at);
            return folders;
        } else {
            at = next;
        }
    }
    folders
}

fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().rev();
    steps.map(|step| step.as_os_str().to_owned()).collect()
}

/// The system's notification of changes, if it has one.
///
/// Only an addition to polling, which finds every change that this misses. Its thread ends when
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
    warned: bool,
}

/// Distinguishes a folder from another one that replaced it.
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
            && !armed.warned
        {
            armed.warned = true;
            tracing::debug!(%error, "failed to watch files; polling them instead");
        }
    }

    /// Resolves once after any number of events. Cancel-safe.
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
        self.folders.retain(|folder, id| {
            let stays = wanted.get(folder) == Some(id);
            if !stays {
                // Fails if the folder was removed, which removed its watch.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
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
        // Our own reading must not cause the next one.
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
fn id(folder: &Path) -> Id {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(folder).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn id(_: &Path) -> Id {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path, path: &Path) -> Vec<String> {
        let folders = folders_on_the_way_to(path);
        let inside = folders
            .iter()
            .filter_map(|folder| folder.strip_prefix(root).ok());
        inside.map(|folder| folder.display().to_string()).collect()
    }

    #[test]
    fn folder_of_every_link_and_of_the_file_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        // As Kubernetes lays out a mounted secret.
        fs::create_dir_all(root.join("secret/..2026_01")).unwrap();
        fs::write(root.join("secret/..2026_01/tls.crt"), "x").unwrap();
        symlink("..2026_01", root.join("secret/..data")).unwrap();
        symlink("..data/tls.crt", root.join("secret/tls.crt")).unwrap();
        assert_eq!(
            names(&root, &root.join("secret/tls.crt")),
            ["secret", "secret/..2026_01"]
        );

        // A chain of linked folders, absolute and relative, that leads there.
        fs::create_dir(root.join("etc")).unwrap();
        symlink(root.join("etc/second"), root.join("first")).unwrap();
        symlink("../secret", root.join("etc/second")).unwrap();
        assert_eq!(
            names(&root, &root.join("first/tls.crt")),
            ["", "etc", "secret", "secret/..2026_01"]
        );
    }

    #[test]
    fn missing_path_is_awaited_in_its_last_existing_folder() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        assert_eq!(names(&root, &root.join("not/yet/tls.crt")), [""]);
        symlink("gone", root.join("dangling")).unwrap();
        assert_eq!(names(&root, &root.join("dangling")), [""]);
    }

    #[test]
    fn circle_of_links_is_left() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(names(&root, &root.join("a")), [""]);
    }
}
