//! Refusals: the reasons why the gateway takes no more work, and the errors for the refused calls.

use std::time::Duration;

use mcpool_wire::{CallError, ErrorKind};

use crate::limits::memory::MemoryAccount;

/// The reason there is no place for another agent session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The gateway is shutting down.
    Draining,
    /// The gateway is at its limit of agent sessions.
    Full,
    /// The peer is at its limit.
    Peer,
    /// Memory is short.
    Overloaded,
}

/// The error for a call that was not sent before the shutdown.
pub(crate) fn draining() -> CallError {
    let message = "the gateway is shutting down and sends no more calls";
    CallError::not_sent(ErrorKind::Draining, message).retry_after(Duration::from_secs(2))
}

/// The error for a call refused because memory is short.
pub(crate) fn overloaded(memory: &MemoryAccount) -> CallError {
    let message = format!(
        "the gateway keeps {} of at most {} bytes in memory and takes no new calls until that is less",
        memory.held(),
        memory.limit()
    );
    CallError::not_sent(ErrorKind::Overloaded, message).retry_after(Duration::from_secs(1))
}
