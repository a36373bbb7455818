//! libFuzzer's entry to `skew`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::skew(data));
