//! What is behind every pool: sessions that know their certificate, and how they are replaced.
//!
//! `retirement` decides; `dialer` connects, with what `standing` knows of the server; `session` is a client and the task that drives it;
//! `slot` is its place in the pool, parked or claimed; `shelf` holds spares; `rotation` moves them.

pub(crate) mod builder;
pub(crate) mod cancel;
pub(crate) mod connection;
pub(crate) mod dialer;
pub(crate) mod events;
pub(crate) mod manager;
pub(crate) mod metrics;
pub(crate) mod notifications;
pub(crate) mod retirement;
pub(crate) mod rotation;
pub(crate) mod session;
pub(crate) mod shelf;
pub(crate) mod signals;
pub(crate) mod slot;
pub(crate) mod standing;
pub(crate) mod status;

pub use builder::{
    CONNECT_TIMEOUT, CertConnectionManagerBuilder, IDLE_PING, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL,
    KEEPALIVE_RETRIES,
};
pub use cancel::Cancel;
pub use connection::PgConnection;
pub use events::{PoolEvent, PoolEvents};
pub use manager::CertConnectionManager;
pub use notifications::{NOTIFICATION_BACKLOG, Notifications, Notified};
pub use retirement::{
    BUDGET, CONNECT_RETRY_CAP, FINISH_AT_MOST, FINISH_WITHIN, MOST_AT_ONCE, REST,
};
pub use rotation::{CANCEL_GRACE, PING_TIMEOUT};
pub use status::{Drained, PoolStatus, Retire, RetireReason, Retired};
