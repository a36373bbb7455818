//! libFuzzer's entry to `cursor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::cursor(data));
