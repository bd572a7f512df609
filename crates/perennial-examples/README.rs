//! Other database crates with certificates from Perennial: see `examples/`.
//!
//! | example | does each connect use the current certificate? | old connections |
//! |---|---|---|
//! | `diesel_async` | yes | closed at the next check-out or at `max_lifetime`; the next query waits for a connect |
//! | `sqlx` | yes, from files | the same; the key must be a file or PEM bytes |
//!
//! Neither crate can replace an idle connection, open the replacement first, or show which certificate
//! a connection uses. `perennial-postgres` with bb8 or deadpool can.
