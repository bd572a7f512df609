//! Finding the servers' programs, or fetching them.

mod pinned;
mod search;

use std::path::{Path, PathBuf};

use crate::error::{BoxError, TestbedError};
use pinned::Package;
use search::{on_path, programs_in, system_postgres};

/// The environment variable that names the `bao` binary, or is `pinned`.
pub const OPENBAO_VARIABLE: &str = "PERENNIAL_BAO";

/// The environment variable that names the folder of `postgres` and `initdb`, or is `pinned`.
pub const POSTGRES_VARIABLE: &str = "PERENNIAL_PGBIN";

/// The value of either variable that skips what is installed and takes the pinned package.
const PINNED: &str = "pinned";

pub(crate) type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Finds `bao`.
pub(crate) async fn openbao(progress: Progress<'_>) -> Result<PathBuf, TestbedError> {
    let found = match chosen(OPENBAO_VARIABLE) {
        Choice::Pinned => pinned::OPENBAO
            .folder(progress)
            .await
            .map(|f| f.join("bao")),
        Choice::Path(path) => executable(path),
        Choice::Search => match on_path("bao") {
            Some(path) => Ok(path),
            None => pinned::OPENBAO
                .folder(progress)
                .await
                .map(|f| f.join("bao")),
        },
    };
    found.map_err(|source| TestbedError::NoServer {
        server: "OpenBao",
        variable: OPENBAO_VARIABLE,
        expects: "the `bao` binary",
        install: "put `bao` on PATH (https://openbao.org/downloads)",
        package: pinned::OPENBAO.requirement(),
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

/// Finds `pgbouncer`. Debian has it where a plain user's `PATH` does not lead.
pub(crate) fn pgbouncer() -> Result<PathBuf, TestbedError> {
    let installed = || executable("/usr/sbin/pgbouncer".into()).ok();
    on_path("pgbouncer")
        .or_else(installed)
        .ok_or(TestbedError::NoPgBouncer)
}

async fn postgres_as(choice: Choice, progress: Progress<'_>) -> Result<PathBuf, TestbedError> {
    let package: &Package = &pinned::POSTGRES;
    let found = match choice {
        Choice::Pinned => package.folder(progress).await,
        Choice::Path(path) => programs_in(&path)
            .ok_or_else(|| format!("no `postgres` and `initdb` in {}", path.display()).into()),
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
    if search::is_executable(&path) {
        Ok(path)
    } else {
        Err(format!("{} is not a program", Path::display(&path)).into())
    }
}
