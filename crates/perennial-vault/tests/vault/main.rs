//! `VaultPki` against a scripted server: what it sends, where, and how it handles the answers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod ca;
mod environment;
mod hardening;
mod hashicorp;
mod logins;
mod once;
mod replies;
mod revoked;
mod server;
mod settings;
mod tokens;
