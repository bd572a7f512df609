//! Pools that meet a rotation under an open-loop load: ours, and what is usually done.

mod contender;
mod course;
mod load;
mod logins;
mod stock;

pub use contender::{Contender, Pool};
pub use course::{Course, Settings, Window, refusal, rotations};
pub use load::{Load, Sample};
pub use stock::{LIFETIME, Retire};
