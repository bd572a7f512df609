//! The Rust code of each README and of the book's pages compiles.

#[doc = include_str!("../../README.md")]
struct Readme;

#[doc = include_str!("../../crates/perennial/README.md")]
struct PerennialReadme;

#[doc = include_str!("../../crates/perennial-vault/README.md")]
struct VaultReadme;

#[doc = include_str!("../../crates/perennial-postgres/README.md")]
struct PostgresReadme;

#[doc = include_str!("../../docs/src/quick-start.md")]
struct QuickStart;

#[doc = include_str!("../../docs/src/sources.md")]
struct Sources;

#[doc = include_str!("../../docs/src/renewal.md")]
struct Renewal;

#[doc = include_str!("../../docs/src/rotation.md")]
struct Rotation;

#[doc = include_str!("../../docs/src/tls.md")]
struct Tls;

#[doc = include_str!("../../docs/src/ca-rotation.md")]
struct CaRotation;

#[doc = include_str!("../../docs/src/kubernetes.md")]
struct Kubernetes;

#[doc = include_str!("../../docs/src/coming-from.md")]
struct ComingFrom;

#[doc = include_str!("../../docs/src/libpq.md")]
struct Libpq;

#[doc = include_str!("../../docs/src/vault-auth.md")]
struct VaultAuth;
