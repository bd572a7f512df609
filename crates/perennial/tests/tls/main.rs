//! The client configs of a live certificate, in real handshakes with a rustls server.

#![cfg(any(feature = "aws-lc-rs", feature = "ring"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pki;
mod rotating;
mod server;
mod sessions;
mod settings;
mod trust;
mod verifiers;
mod versions;
