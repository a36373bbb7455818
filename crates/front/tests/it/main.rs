//! The front over real sockets, in front of scripted backends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod batch;
mod client;
mod cors;
mod credentials;
mod events;
mod flood;
mod framing;
mod guard;
mod guests;
mod hangup;
mod input;
mod lifecycle;
mod limits;
mod lives;
mod modern;
mod overload;
mod pages;
mod panics;
mod parked;
mod places;
mod repeated;
mod restore;
mod resume;
mod script;
mod silent;
mod slow;
mod sse;
mod streamable;
