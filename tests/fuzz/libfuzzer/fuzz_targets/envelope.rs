//! libFuzzer's entry to `envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::envelope(data));
