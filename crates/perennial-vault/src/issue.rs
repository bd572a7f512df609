//! One certificate: what is requested, the key, and the checks of the answer.

mod answer;
mod key;
mod request;
mod skew;

pub(crate) use answer::{Expected, IssueReply, certificates, roots_of, union};
pub use key::KeyType;
pub(crate) use key::NewKey;
pub(crate) use request::{CertRequest, KeyOrigin};
pub(crate) use skew::wall_clock;
