//! libFuzzer's entry to `sse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::sse(data));
