//! libFuzzer's entry to `inbound`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcpool_fuzz::inbound(data));
