//! Generated pages under `config`, compared with the code by tests.

use std::{env, fs};

/// Compares a page under `config` with the code, or writes it if `MCPOOL_WRITE_PAGES` is set.
pub(crate) fn check(name: &str, text: &str) {
    let file = format!("{}/../../config/{name}", env!("CARGO_MANIFEST_DIR"));
    if env::var_os("MCPOOL_WRITE_PAGES").is_some() {
        fs::write(&file, text).unwrap_or_else(|why| panic!("{file}: {why}"));
    }
    let known = fs::read_to_string(&file).unwrap_or_default();
    let differs = known.lines().zip(text.lines()).find(|(known, now)| known != now);
    assert!(
        known == text,
        "config/{name} is not what the code says; write it anew: \
         MCPOOL_WRITE_PAGES=1 cargo nextest run -p mcpool page\nfirst difference: {differs:#?}"
    );
}
