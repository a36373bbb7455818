//! The front over real sockets, in front of scripted backends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod script;
mod streamable;
