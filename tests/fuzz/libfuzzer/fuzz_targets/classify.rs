//! libFuzzer's entry to `classify`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::classify(data));
