//! A reply of Vault's, or of what stands in its place, up to material, a token or an error's text.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use perennial_vault::Reader;

/// The key of the certificate in the seeds, good for nothing.
static READER: LazyLock<Reader> = LazyLock::new(|| Reader::new(include_str!("../key.pem")));

// Status, `Date` and `Retry-After`, a line each; the rest is the body.
fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(4, |&byte| byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let status = std::str::from_utf8(part())
        .ok()
        .and_then(|text| text.parse().ok());
    READER.read(status.unwrap_or(200), part(), part(), part());
});
