//! libFuzzer's entry to `sealed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::sealed(data));
