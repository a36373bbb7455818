//! libFuzzer's entry to `downgrade`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::downgrade(data));
