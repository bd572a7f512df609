//! One thread a process that notices when wall and monotonic clock have moved apart.
//!
//! A timer cannot: the monotonic clock stands still while a host sleeps. One watcher serves every
//! live certificate, so that a thousand of them cost no wake-ups.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::wall_clock;

/// How often it looks: the longest that a step goes unnoticed.
const LOOK: Duration = Duration::from_secs(2);

/// A smaller difference between two looks is a clock being slewed, not set.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The running watcher's channel; the thread ends, and empties it, when nobody follows.
static RUNNING: Mutex<Option<watch::Sender<u64>>> = Mutex::new(None);

/// Changes with each step of the wall clock.
pub(super) fn steps() -> watch::Receiver<u64> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(steps) = &*running {
        return steps.subscribe();
    }
    let (steps, follower) = watch::channel(0);
    let thread = std::thread::Builder::new().name("perennial-clock".to_owned());
    match thread.spawn(watch_clocks) {
        Ok(_detached) => *running = Some(steps),
        // Without it the monotonic clock alone decides; `valid()` still looks at the wall clock.
        Err(error) => tracing::warn!(error = %error, "the clock watcher could not be started"),
    }
    follower
}

fn watch_clocks() {
    let mut last = (wall_clock(), Instant::now());
    loop {
        std::thread::sleep(LOOK);
        let now = (wall_clock(), Instant::now());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(steps) = running.as_ref().filter(|steps| steps.receiver_count() > 0) else {
            *running = None;
            return;
        };
        if apart(now.0, last.0 + (now.1 - last.1)) > TOLERANCE {
            steps.send_modify(|count| *count += 1);
        }
        last = now;
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other)
        .unwrap_or_else(|before| before.duration())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watcher_ends_when_nobody_follows_and_starts_anew() {
        let running = || RUNNING.lock().unwrap().is_some();
        let first = steps();
        let second = steps();
        assert!(running());
        drop((first, second));
        let deadline = Instant::now() + 10 * LOOK;
        while running() && Instant::now() < deadline {
            std::thread::sleep(LOOK / 20);
        }
        assert!(!running(), "the thread has let go");
        let _again = steps();
        assert!(running());
    }

    #[test]
    fn difference_of_two_times_has_no_sign() {
        let noon = wall_clock();
        assert_eq!(apart(noon, noon + LOOK), LOOK);
        assert_eq!(apart(noon + LOOK, noon), LOOK);
    }
}
