//! What the kernel says of this process.

use std::fs;
use std::io;
use std::time::Duration;

/// Memory that is resident now, in bytes.
///
/// # Errors
/// `/proc` is not there, or not as proc(5) describes.
pub fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = number(line.and_then(|line| line.split_whitespace().next()))?;
    Ok(kibibytes * 1_024)
}

/// Time that all threads have spent on a core, to the nanosecond.
///
/// # Errors
/// As [`resident`].
pub fn cpu_time() -> io::Result<Duration> {
    let mut spent = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task")? {
        let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
        spent += Duration::from_nanos(number(schedstat.split_whitespace().next())?);
    }
    Ok(spent)
}

/// File descriptors that are open now.
///
/// # Errors
/// As [`resident`].
pub fn open_files() -> io::Result<usize> {
    // One more is open while we look.
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

fn number(text: Option<&str>) -> io::Result<u64> {
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
