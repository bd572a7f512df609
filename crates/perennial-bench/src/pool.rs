//! Pools that go through a rotation under an open-loop load: ours, and the usual ways on stock bb8.

mod contender;
mod load;
mod run;

pub use contender::{Contender, MAX_LIFETIME, Pool, Retire};
pub use load::{Load, Sample};
pub use run::{PoolRun, Settings, Window, refusal, rotations};
