//! libFuzzer's entry to `stdio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::stdio(data));
