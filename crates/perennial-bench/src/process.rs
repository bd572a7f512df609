//! Memory, CPU time and open files of this process and of others, from `/proc`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The resident memory of this process, in bytes.
///
/// # Errors
/// `/proc` is missing, or its format differs from proc(5).
pub fn resident() -> io::Result<u64> {
    resident_in(Path::new("/proc/self"))
}

/// Like [`resident`], for another process.
///
/// # Errors
/// As [`resident`], and if there is no such process.
pub fn resident_of(pid: u32) -> io::Result<u64> {
    resident_in(&other(pid))
}

/// The CPU time of all threads of this process, exact to the nanosecond.
///
/// # Errors
/// As [`resident`].
pub fn cpu_time() -> io::Result<Duration> {
    cpu_time_in(Path::new("/proc/self"))
}

/// Like [`cpu_time`], for another process; ended threads do not count.
///
/// # Errors
/// As [`resident_of`].
pub fn cpu_time_of(pid: u32) -> io::Result<Duration> {
    cpu_time_in(&other(pid))
}

/// The number of open file descriptors.
///
/// # Errors
/// As [`resident`].
pub fn open_files() -> io::Result<usize> {
    // Reading the folder opens one more.
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

fn other(pid: u32) -> PathBuf {
    format!("/proc/{pid}").into()
}

fn resident_in(process: &Path) -> io::Result<u64> {
    let status = fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = number(line.and_then(|line| line.split_whitespace().next()))?;
    Ok(kibibytes * 1_024)
}

fn cpu_time_in(process: &Path) -> io::Result<Duration> {
    let mut spent = Duration::ZERO;
    for thread in fs::read_dir(process.join("task"))? {
        let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
        spent += Duration::from_nanos(number(schedstat.split_whitespace().next())?);
    }
    Ok(spent)
}

fn number(text: Option<&str>) -> io::Result<u64> {
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
