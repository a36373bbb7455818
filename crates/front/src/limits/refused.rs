//! Why the gateway takes no more work: the reasons, and the errors of the calls they turn away.

use std::time::Duration;

use mcpool_wire::{CallError, ErrorKind};

use crate::limits::memory::MemoryAccount;

/// Why there is no place for another agent session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The gateway stops.
    Draining,
    /// There are as many as there may be.
    Full,
    /// Its peer has as many as it may.
    Peer,
    /// Too much is kept in memory.
    Overloaded,
}

/// Why a call that was not sent is not sent any more.
pub(crate) fn draining() -> CallError {
    let message = "the gateway is shutting down and sends no more calls";
    CallError::not_sent(ErrorKind::Draining, message).retry_after(Duration::from_secs(2))
}

/// Why no work is taken now.
pub(crate) fn overloaded(memory: &MemoryAccount) -> CallError {
    let message = format!(
        "the gateway keeps {} of at most {} bytes in memory and takes no new calls until that is less",
        memory.held(),
        memory.limit()
    );
    CallError::not_sent(ErrorKind::Overloaded, message).retry_after(Duration::from_secs(1))
}
