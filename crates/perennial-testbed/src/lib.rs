//! Real OpenBao and Postgres servers as child processes, and a TCP fault proxy, for tests and the demo.
//!
//! [`Testbed::start`] starts an OpenBao with a PKI (root, intermediate, a role for clients, a role for servers,
//! a least-privilege policy, an AppRole) and a Postgres that has a server certificate of this PKI and accepts only
//! clients with a certificate of this PKI. Each server has its own folder and its own free loopback ports, so any
//! number of testbeds can run in parallel.
//!
//! [`OpenBaoCluster`] is one OpenBao of three nodes, for tests in which a node fails.
//!
//! [`Testbed::another_postgres`], [`Postgres::standby`] and [`Testbed::pgbouncer`] add servers of the same PKI. The certificate, the trusted
//! CAs and the settings of a running server can be changed, and so can the root of the PKI; [`FakeClock`] steps its clock.
//!
//! Dropping the [`Testbed`] ends all servers and removes their folders. If the process ends in any other way, SIGKILL
//! included, this happens within a second or two. The logs are kept if a test that owns a testbed panics, and always
//! if [`KEEP`] is set. A testbed in a `static` is never dropped: it is cleaned up, but its logs are kept only with
//! [`KEEP`].
//!
//! # Where the server programs come from
//! 1. [`PERENNIAL_BAO`](OPENBAO_VARIABLE) is the path of the `bao` binary, [`PERENNIAL_PGBIN`](POSTGRES_VARIABLE) the
//!    folder of `postgres` and `initdb`. If a variable is set to the word `pinned`, step 2 is skipped.
//! 2. `PATH`, and for Postgres also `/usr/lib/postgresql/*/bin`, highest version first.
//! 3. Pinned packages with checked hashes, fetched once by the machine's pip into the user's cache
//!    (`$XDG_CACHE_HOME/perennial/testbed` or `~/.cache/perennial/testbed`; for root `/var/cache/perennial/testbed`).
//!
//! Postgres and pgbouncer refuse to run as root; if root starts them, they run as `postgres` or `nobody`. There is no
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
mod clock;
mod error;
mod folder;
mod locate;
mod pgbouncer;
mod postgres;
mod proxy;
mod server;
mod testbed;

pub use bao::{AppRole, BaoAgent, Elections, OpenBao, OpenBaoCluster, ServerCertificate};
pub use clock::FakeClock;
pub use error::{BoxError, TestbedError};
pub use folder::KEEP;
pub use locate::{OPENBAO_VARIABLE, POSTGRES_VARIABLE};
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use proxy::{Fault, Proxy};
pub use serde_json;
pub use testbed::Testbed;
pub use tokio_postgres;
