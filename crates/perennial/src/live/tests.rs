use std::collections::HashSet;
use std::sync::Mutex;

use super::*;
use crate::testing::{MINUTE, ScriptedSource, Step, TestCa, TestClock, builder, noon, until};
use crate::{CertState, Gate, SourceError, Verdict};
use crate::{FetchReason, Fetched};

fn down() -> Step {
    Step::Fail(SourceError::unavailable("connection refused"))
}

async fn started(wall: &TestClock, source: &ScriptedSource) -> LiveCert {
    builder(wall).start(source.clone()).await.unwrap()
}

/// A source that always delivers the same certificate, of this lifetime.
fn unchanging(wall: &TestClock, lifetime: Duration) -> ScriptedSource {
    let ca = TestCa::new();
    let (leaf, key) = ca.leaf(wall.now(), lifetime);
    let same = || {
        let chain = vec![leaf.clone()];
        CertMaterial::from_der(chain, key.clone_key(), vec![ca.root_der()]).unwrap()
    };
    let steps: Vec<_> = (0..1_000).map(|_| Step::Deliver(same().into())).collect();
    ScriptedSource::new(wall, steps)
}

mod callers;
mod clocks;
mod ending;
mod gates;
mod outage;
mod renewal;
mod start;
