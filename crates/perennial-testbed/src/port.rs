use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use crate::error::TestbedError;

/// Where ports are taken from: below the range that the kernel gives to outgoing connections.
///
/// A server that is stopped comes back on its port. In the kernel's own range a client's connection could have taken
/// it meanwhile, and a client that keeps trying a closed port there can even end up connected to itself.
const RANGE: Range<u64> = 12_000..32_000;

/// Finds a port that nobody listens on. Another process may take it first: the caller tries again.
pub(crate) fn free() -> Result<u16, TestbedError> {
    let random = RandomState::new();
    (0_u32..200)
        .filter_map(|attempt| {
            let port = RANGE.start + random.hash_one(attempt) % (RANGE.end - RANGE.start);
            u16::try_from(port).ok()
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or(TestbedError::NoPort)
}
