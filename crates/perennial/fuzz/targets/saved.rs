//! The file of a saved certificate, as any user who may write there could have left it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = perennial::testing::read_saved(data);
});
