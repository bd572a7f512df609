//! Whether a process grows that should not.

use std::io;

use tokio::runtime::Handle;

use crate::process::{open_files, resident};
use crate::statistics::median;

/// The part at the beginning that is left out: pools fill, the allocator finds its size.
const WARM_UP: f64 = 0.2;

/// What is compared: the quarter after that with the last one.
const PART: f64 = 0.25;

/// What was taken at one moment.
#[derive(Clone, Copy, Debug)]
struct Take {
    kibibytes: f64,
    tasks: f64,
    files: f64,
}

/// Looks at this process again and again.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    takes: Vec<Take>,
}

/// What there is more of at the end than at the beginning, each by medians.
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
    /// Looks once.
    ///
    /// # Errors
    /// `/proc` is not there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn look(&mut self) -> io::Result<()> {
        self.takes.push(Take {
            kibibytes: resident()? as f64 / 1_024.0,
            tasks: Handle::current().metrics().num_alive_tasks() as f64,
            files: open_files()? as f64,
        });
        Ok(())
    }

    /// What has grown.
    pub fn growth(&self) -> Growth {
        let (begin, part) = (
            (self.takes.len() as f64 * WARM_UP) as usize,
            ((self.takes.len() as f64 * PART) as usize).max(1),
        );
        let warm = &self.takes[begin..];
        let early = &warm[..part.min(warm.len())];
        let late = &warm[warm.len() - early.len()..];
        let grown = |of: fn(&Take) -> f64| {
            let median = |takes: &[Take]| median(&takes.iter().map(of).collect::<Vec<_>>());
            median(late) - median(early)
        };
        Growth {
            kibibytes: grown(|take| take.kibibytes),
            tasks: grown(|take| take.tasks),
            files: grown(|take| take.files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(kibibytes: impl Fn(usize) -> f64) -> Watch {
        let take = |index| Take {
            kibibytes: kibibytes(index),
            tasks: 20.0,
            files: 40.0,
        };
        Watch {
            takes: (0..60).map(take).collect(),
        }
    }

    #[test]
    fn growth_is_told_from_a_warm_up_and_from_swings() {
        let leak = watch(|index| 1_000.0 * index as f64).growth();
        assert_eq!(leak.kibibytes, 33_000.0);
        assert_eq!((leak.tasks, leak.files), (0.0, 0.0));
        let warm_up = watch(|index| 1_000.0 * index.min(11) as f64).growth();
        assert_eq!(warm_up.kibibytes, 0.0);
        let swings = watch(|index| if index % 5 == 0 { 9_000.0 } else { 1.0 }).growth();
        assert_eq!(swings.kibibytes, 0.0);
        assert_eq!(Watch::default().growth().kibibytes, 0.0);
    }
}
