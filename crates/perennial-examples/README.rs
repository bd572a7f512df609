//! Other database crates on Perennial's certificates: see `examples/`.
//!
//! | example | each connect takes the current certificate | old connections |
//! |---|---|---|
//! | `diesel_async` | yes | closed at their next check-out, or at `max_lifetime`; the next query waits for a connect |
//! | `sqlx` | yes, from files | the same; and the key must be on disk or in PEM |
//!
//! Neither can exchange a connection that is idle, connect its replacement first, or see which
//! certificate a connection stands on. `perennial-postgres` with bb8 or deadpool does.
