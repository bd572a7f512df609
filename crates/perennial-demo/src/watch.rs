//! The live view's loop: looks ten times a second, draws, and does what keys ask for.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use perennial::{LiveCert, UsableLife};
use tokio::time::{Instant, MissedTickBehavior};

use crate::faults::{Action, Faults};
use crate::load::Load;
use crate::rotations::Log;
use crate::screen::{Screen, Wish};
use crate::view::{Certificate, Second, View};
use crate::witness::Witness;

/// How often it is drawn anew.
const FRAME: Duration = Duration::from_millis(100);
/// As often as figures of the load are taken.
const SECOND: Duration = Duration::from_secs(1);

type Deed<'a> = Pin<Box<dyn Future<Output = anyhow::Result<String>> + 'a>>;

/// What is watched.
pub(crate) struct Watched<'a> {
    pub(crate) live: &'a LiveCert,
    pub(crate) log: &'a Log,
    pub(crate) load: &'a Load,
    pub(crate) faults: &'a Faults<'a>,
}

/// Shows it until somebody quits or `end` comes.
pub(crate) async fn watch(
    watched: &Watched<'_>,
    witness: &mut Witness,
    servers: String,
    end: impl Future<Output = io::Result<()>>,
) -> anyhow::Result<()> {
    let mut screen = Screen::take()?;
    let began = Instant::now();
    let mut view = View {
        servers,
        ..View::default()
    };
    let mut frames = tokio::time::interval(FRAME);
    // A frame that came late is not made up for.
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seconds = tokio::time::interval_at(began + SECOND, SECOND);
    // One at a time: each leaves the servers as the next expects them.
    let mut deed: Deed<'_> = Box::pin(pending());
    tokio::pin!(end);
    loop {
        tokio::select! {
            ended = &mut end => return Ok(ended?),
            wish = screen.wish() => match wish? {
                Wish::Quit => return Ok(()),
                Wish::Key(key) => if let Some(action) = Action::of(key) && !view.busy {
                    view.busy = true;
                    deed = Box::pin(watched.faults.act(action));
                },
            },
            done = &mut deed => {
                view.busy = false;
                deed = Box::pin(pending());
                hear(watched.log, &mut view);
                view.add_event(done.unwrap_or_else(|error| format!("{error:#}")));
            }
            _ = seconds.tick() => {
                let (queries, p50_ms, p99_ms) = watched.load.take_second();
                view.add_second(Second { queries, p50_ms, p99_ms });
            }
            _ = frames.tick() => {
                view.elapsed = began.elapsed();
                view.certificate = certificate(watched.live);
                view.sight = witness.look(watched.log).await?;
                view.failed = watched.load.failed();
                view.broken = watched.faults.broken();
                hear(watched.log, &mut view);
                screen.show(&view)?;
            }
        }
    }
}

fn hear(log: &Log, view: &mut View) {
    for event in log.take_events() {
        view.add_event(event);
    }
}

/// The certificate in use, expired or not.
fn certificate(live: &LiveCert) -> Option<Certificate> {
    let (status, now) = (live.status(), live.now());
    let snapshot = live.rotations().latest()?;
    let life = UsableLife::new(
        snapshot.obtained_at(),
        snapshot.not_before(),
        snapshot.not_after(),
    );
    Some(Certificate {
        generation: snapshot.generation(),
        serial: snapshot.serial().to_string(),
        state: status.state,
        life: life.length(),
        remaining: snapshot.remaining(now),
        next_fetch: status
            .next_fetch
            .map(|at| at.duration_since(now).unwrap_or_default()),
        failures: status.consecutive_failures,
    })
}
