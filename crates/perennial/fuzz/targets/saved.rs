//! A saved certificate's file, as whoever can write there may have left it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial::SavedCert;

fuzz_target!(|data: &[u8]| {
    if let Ok(saved) = SavedCert::parse(data) {
        let _refused = saved.to_material();
    }
});
