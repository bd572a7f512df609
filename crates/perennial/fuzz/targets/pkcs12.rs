//! PKCS#12 in any form, with an empty passphrase.
#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial::CertMaterial;

fuzz_target!(|data: &[u8]| {
    let _ = CertMaterial::without_roots(data, data);
});
