//! libFuzzer's entry to `batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::batch(data));
