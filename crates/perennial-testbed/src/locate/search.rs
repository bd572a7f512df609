use std::path::{Path, PathBuf};

/// Finds a program on `PATH`.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    path_folders()
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

/// Finds the folder of an installed `postgres` and `initdb`.
pub(super) fn system_postgres() -> Option<PathBuf> {
    path_folders()
        .find_map(|folder| programs_in(&folder))
        .or_else(|| newest_below(Path::new("/usr/lib/postgresql")))
}

/// The real folder of both programs, if `folder` has them.
///
/// Symbolic links are resolved: the programs look for their share files beside themselves.
pub(super) fn programs_in(folder: &Path) -> Option<PathBuf> {
    let postgres = folder.join("postgres").canonicalize().ok()?;
    let real = postgres.parent()?;
    (is_executable(&postgres) && is_executable(&real.join("initdb"))).then(|| real.to_path_buf())
}

pub(super) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// Debian and Ubuntu keep each version's programs in `<version>/bin`, out of `PATH`.
fn newest_below(root: &Path) -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(root)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, programs_in(&entry.path().join("bin"))?))
        })
        .collect();
    versions.sort();
    versions.pop().map(|(_, folder)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn install(bin: &Path) {
        std::fs::create_dir_all(bin).unwrap();
        for program in ["postgres", "initdb"] {
            let path = bin.join(program);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn the_highest_version_wins_by_number() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "notes"] {
            install(&root.path().join(version).join("bin"));
        }
        std::fs::create_dir_all(root.path().join("99/bin")).unwrap();
        let found = newest_below(root.path()).unwrap();
        assert!(found.ends_with("15/bin"), "{}", found.display());
    }

    #[test]
    fn a_link_leads_to_the_folder_with_both_programs() {
        let root = tempfile::tempdir().unwrap();
        let (real, links) = (root.path().join("real"), root.path().join("links"));
        install(&real);
        std::fs::create_dir(&links).unwrap();
        symlink(real.join("postgres"), links.join("postgres")).unwrap();
        assert_eq!(programs_in(&links), Some(real.canonicalize().unwrap()));
    }
}
