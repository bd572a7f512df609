//! Which folders to watch, so that whatever a path leads to, its change is an event in one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// More links than this on the way are a circle (Linux follows 40).
const MOST_LINKS: usize = 40;

/// The folder of the file, and of every link on the way to it.
///
/// A link is swapped in the folder that holds it: Kubernetes swaps `..data` beside the link that
/// leads through it, certbot the links in `live/`. Where something on the way is missing, the
/// last folder that is there, so that its making is seen.
pub(super) fn on_the_way_to(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let Ok(path) = std::path::absolute(path) else {
        return folders;
    };
    let mut at = PathBuf::new();
    let mut links = 0;
    // What is still to walk, the next step last.
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
            // An absolute target begins with the root, which replaces `at` when it is pushed.
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

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path, path: &Path) -> Vec<String> {
        let folders = on_the_way_to(path);
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
    fn what_is_missing_is_awaited_in_the_last_folder_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        assert_eq!(names(&root, &root.join("not/yet/tls.crt")), [""]);
        symlink("gone", root.join("dangling")).unwrap();
        assert_eq!(names(&root, &root.join("dangling")), [""]);
    }

    #[test]
    fn circle_of_links_comes_to_an_end() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(names(&root, &root.join("a")), [""]);
    }
}
