//! Chain, key and roots in any form, through every check before publishing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial::{CertMaterial, LiveCert};

/// Parts the input in three; rare in PEM and in DER lengths.
const SPLIT: u8 = 0xfe;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |&byte| byte == SPLIT);
    let mut part = || parts.next().unwrap_or_default();
    if let Ok(material) = CertMaterial::from_bytes(part(), part(), part()) {
        let _ = LiveCert::fixed(material);
    }
});
