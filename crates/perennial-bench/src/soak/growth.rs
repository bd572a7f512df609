//! Detects growth of a process that should stay constant.

use std::io;

use tokio::runtime::Handle;

use crate::process::{open_files, resident};
use crate::statistics::median;

/// The part at the beginning that does not count: pools fill, and the allocator reaches its size.
const WARM_UP: f64 = 0.2;

/// The compared parts: the quarter after the warm-up and the last quarter.
const PART: f64 = 0.25;

/// Measurements at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    kibibytes: f64,
    tasks: f64,
    files: f64,
}

/// Repeated measurements of this process.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    readings: Vec<Reading>,
}

/// The difference between the end and the beginning, by medians.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Resident memory.
    pub kibibytes: f64,
    /// Tasks of the runtime.
    pub tasks: f64,
    /// Open file descriptors.
    pub files: f64,
}

impl Watch {
    /// Takes a measurement.
    ///
    /// # Errors
    /// `/proc` is missing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn measure(&mut self) -> io::Result<()> {
        self.readings.push(Reading {
            kibibytes: resident()? as f64 / 1_024.0,
            tasks: Handle::current().metrics().num_alive_tasks() as f64,
            files: open_files()? as f64,
        });
        Ok(())
    }

    /// The growth so far.
    pub fn growth(&self) -> Growth {
        let (begin, part) = (
            (self.readings.len() as f64 * WARM_UP) as usize,
            ((self.readings.len() as f64 * PART) as usize).max(1),
        );
        let warm = &self.readings[begin..];
        let early = &warm[..part.min(warm.len())];
        let late = &warm[warm.len() - early.len()..];
        let grown = |of: fn(&Reading) -> f64| {
            let median =
                |readings: &[Reading]| median(&readings.iter().map(of).collect::<Vec<_>>());
            median(late) - median(early)
        };
        Growth {
            kibibytes: grown(|reading| reading.kibibytes),
            tasks: grown(|reading| reading.tasks),
            files: grown(|reading| reading.files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(kibibytes: impl Fn(usize) -> f64) -> Watch {
        let reading = |index| Reading {
            kibibytes: kibibytes(index),
            tasks: 20.0,
            files: 40.0,
        };
        Watch {
            readings: (0..60).map(reading).collect(),
        }
    }

    #[test]
    fn growth_is_distinguished_from_a_warm_up_and_from_fluctuation() {
        let leak = watch(|index| 1_000.0 * index as f64).growth();
        assert_eq!(leak.kibibytes, 33_000.0);
        assert_eq!((leak.tasks, leak.files), (0.0, 0.0));
        let warm_up = watch(|index| 1_000.0 * index.min(11) as f64).growth();
        assert_eq!(warm_up.kibibytes, 0.0);
        let fluctuation = watch(|index| if index % 5 == 0 { 9_000.0 } else { 1.0 }).growth();
        assert_eq!(fluctuation.kibibytes, 0.0);
        assert_eq!(Watch::default().growth().kibibytes, 0.0);
    }
}
