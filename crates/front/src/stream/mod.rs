//! Streams to agents: their outboxes, events stored for a resume, and the state of their connections.

pub(crate) mod connection;
pub(crate) mod drop_policy;
pub(crate) mod event;
pub(crate) mod open_streams;
pub(crate) mod outbox;
pub(crate) mod replay;
