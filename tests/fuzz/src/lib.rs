//! What is fuzzed: one function per target, from any bytes to assertions.
//!
//! The functions are plain, so that the gate replays the inputs kept under `corpus` on a stable compiler as ordinary
//! tests (`tests/it/corpus.rs`); only `libfuzzer` needs the fuzzer. A target that fails panics. Most of them begin
//! an input with a few bytes of structure and take the rest as it is, so that seeds can be written by hand.

mod batch;
mod classify;
mod config;
mod cursor;
mod downgrade;
mod envelope;
mod id;
mod inbound;
mod pieces;
mod sealed;
mod session;
mod sse;
mod stdio;
mod text;

pub use self::{
    batch::batch, classify::classify, config::config, cursor::cursor, downgrade::downgrade,
    envelope::envelope, id::id, inbound::inbound, sealed::sealed, session::session, sse::sse, stdio::stdio,
};

/// A target: its name, which is also that of its folder under `corpus`, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 12] = [
    ("envelope", envelope),
    ("id", id),
    ("batch", batch),
    ("downgrade", downgrade),
    ("sse", sse),
    ("stdio", stdio),
    ("sealed", sealed),
    ("cursor", cursor),
    ("config", config),
    ("classify", classify),
    ("session", session),
    ("inbound", inbound),
];
