//! Real OpenBao and real Postgres as child processes, and a TCP fault proxy, for tests and the demo.
//!
//! [`Testbed::start`] gives an OpenBao with a PKI (root, intermediate, a role for clients, a role for servers,
//! a least-privilege policy, an AppRole) and a Postgres whose server certificate comes from that PKI and that lets in
//! nobody without a client certificate of it. Each server has its own folder and its own free loopback ports, so that
//! any number of testbeds stand side by side.
//!
//! [`OpenBaoCluster`] is three nodes of one OpenBao, for what a cluster does when one of them fails.
//!
//! [`Testbed::another_postgres`] and [`Testbed::pgbouncer`] add servers of the same PKI. A running server's
//! certificate, the CAs that it trusts and its settings can be changed, and so can the PKI's own root.
//!
//! Everything is gone once the [`Testbed`] is dropped, and within a second or two when the process that holds it ends
//! in any other way, SIGKILL included. The logs are kept when a test that owns a testbed panics, and always when
//! [`KEEP`] is set. A testbed in a `static` is never dropped: it is cleared up, but only [`KEEP`] keeps its logs.
//!
//! # Where the servers come from
//! 1. [`PERENNIAL_BAO`](OPENBAO_VARIABLE) names the `bao` binary, [`PERENNIAL_PGBIN`](POSTGRES_VARIABLE) the folder
//!    that holds `postgres` and `initdb`. The word `pinned` in either skips step 2.
//! 2. `PATH`, and for Postgres also `/usr/lib/postgresql/*/bin`, the highest version first.
//! 3. Pinned packages with checked hashes, fetched once by the machine's own pip into the user's cache
//!    (`$XDG_CACHE_HOME/perennial/testbed` or `~/.cache/perennial/testbed`, for root `/var/cache/perennial/testbed`).
//!
//! Postgres and pgbouncer refuse to run as root; started by root they run as `postgres` or `nobody`. There is no
//! package of pgbouncer to fetch: it must be installed.
//!
//! # Example
//! ```no_run
//! # async fn example() -> Result<(), perennial_testbed::TestbedError> {
//! use perennial_testbed::Testbed;
//!
//! let testbed = Testbed::start().await?;
//! let before = testbed.bao.issued().await?;
//! // … let the app under test log in to `testbed.bao.address()` and connect to `testbed.postgres` …
//! assert_eq!(testbed.bao.issued().await?, before + 1);
//! # Ok(())
//! # }
//! ```

mod bao;
mod ends;
mod error;
mod folder;
mod locate;
mod pgbouncer;
mod port;
mod postgres;
mod proxy;
mod server;
mod testbed;

pub use bao::{AppRole, BaoAgent, Elections, OpenBao, OpenBaoCluster, ServerCertificate};
pub use error::{BoxError, TestbedError};
pub use folder::KEEP;
pub use locate::{OPENBAO_VARIABLE, POSTGRES_VARIABLE};
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use proxy::{Fault, Proxy};
pub use serde_json;
pub use testbed::Testbed;
pub use tokio_postgres;
