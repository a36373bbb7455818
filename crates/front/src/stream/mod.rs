//! What an agent reads: the outbox of a stream, what is kept for a resume, and the state of its connection.

pub(crate) mod connection;
pub(crate) mod drop_policy;
pub(crate) mod event;
pub(crate) mod open_streams;
pub(crate) mod outbox;
pub(crate) mod replay;
