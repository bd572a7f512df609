//! The configs of a live certificate, in real handshakes with a rustls peer.

#![cfg(any(feature = "aws-lc-rs", feature = "ring"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod for_life;
mod openssl;
mod peer;
mod pki;
mod rotating;
mod server;
mod serving;
mod sessions;
mod settings;
mod trust;
mod verifiers;
mod versions;
