//! Failures of one pool's handshakes: the last error, the pause before the next, and notices to waiting agents.
//!
//! If agents bring credentials of their own (`forward_headers`), each pool has its own failures: the refusal of one
//! credential delays no other, and no other agent reads it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use crate::{
    error::{Cause, SendError},
    kinds::OpenReason,
};

/// The last failed handshake.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The error, for a human.
    pub why: String,
    /// The time.
    pub since: Instant,
    /// The number of failures in a row.
    pub times: u32,
    /// True if it recurs until the configuration or a credential changes.
    pub is_refusal: bool,
}

/// Refusals in a row after which waits are shortened.
pub(crate) const REFUSALS: u32 = 3;

/// The failures of a pool.
pub(crate) struct Plight {
    inner: Mutex<Inner>,
    /// The last refusal, for agents waiting for the pool's first handshake.
    refusal: watch::Sender<Option<Arc<SendError>>>,
}

#[derive(Default)]
struct Inner {
    trouble: Option<Trouble>,
    pause: Option<Pause>,
    /// The start of the latest handshake.
    begun: Option<Instant>,
}

/// The pause after a failed handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pause {
    /// After a failure; shorter if a call waits.
    Failed { waited: Instant, idle: Instant },
    /// The backend reported that it is at its limit.
    Pressure(Instant),
}

impl Pause {
    /// The end of the pause for this reason. With `probing` the circuit has its own pauses.
    pub(crate) fn until(self, reason: OpenReason, probing: bool) -> Option<Instant> {
        match (self, reason) {
            (Self::Pressure(at), _) => Some(at),
            (Self::Failed { .. }, _) if probing => None,
            (Self::Failed { idle, .. }, OpenReason::Warm) => Some(idle),
            (Self::Failed { waited, .. }, _) => Some(waited),
        }
    }
}

impl Default for Plight {
    fn default() -> Self {
        Self { inner: Mutex::default(), refusal: watch::Sender::new(None) }
    }
}

impl Plight {
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.lock().trouble.clone()
    }

    pub(crate) fn is_troubled(&self) -> bool {
        self.lock().trouble.is_some()
    }

    pub(crate) fn pause(&self) -> Option<Pause> {
        self.lock().pause
    }

    /// True while it pauses; then it must not be forgotten, or the pause would be too.
    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        self.pause().and_then(|pause| pause.until(OpenReason::Demand, false)).is_some_and(|at| at > now)
    }

    /// Notes the start of a handshake.
    pub(crate) fn begins(&self, now: Instant) {
        self.lock().begun = Some(now);
    }

    pub(crate) fn begun(&self) -> Option<Instant> {
        self.lock().begun
    }

    /// Notes a failed handshake.
    pub(crate) fn failed(&self, error: &SendError, trouble: Trouble, pause: Pause) {
        {
            let mut inner = self.lock();
            inner.trouble = Some(trouble);
            inner.pause = Some(pause);
        }
        if is_final(&error.cause) {
            self.refusal.send_replace(Some(Arc::new(error.clone())));
        }
    }

    /// Clears the failures after a successful handshake or a resume.
    pub(crate) fn mended(&self) {
        let mut inner = self.lock();
        (inner.trouble, inner.pause) = (None, None);
    }

    /// Resolves at the next definitive refusal.
    pub(crate) fn next_refusal(&self) -> impl Future<Output = Arc<SendError>> + Send + use<> {
        let mut refusals = self.refusal.subscribe();
        refusals.mark_unchanged();
        async move {
            loop {
                if refusals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if let Some(error) = refusals.borrow_and_update().clone() {
                    return error;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The state is consistent between any two statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if the server answered, so that it is up and only this credential is refused.
pub(crate) fn is_refusal(cause: &Cause) -> bool {
    match cause {
        Cause::Connect(_)
        | Cause::Tls(_)
        | Cause::Descriptors
        | Cause::Broken(_)
        | Cause::Timeout(_)
        | Cause::Gateway(_)
        | Cause::Closed(_) => false,
        Cause::Status(refusal) => refusal.status < 500,
        Cause::SessionLost(_)
        | Cause::Pressure(_)
        | Cause::Credential(_)
        | Cause::NotInitialized(_)
        | Cause::WrongVersion(_)
        | Cause::WrongTransport(_)
        | Cause::TooLarge(_)
        | Cause::Protocol(_) => true,
    }
}

/// True if a retry with the same credential would be refused again, so that waiting is useless.
pub(crate) fn is_final(cause: &Cause) -> bool {
    match cause {
        Cause::Credential(_) | Cause::Protocol(_) => true,
        Cause::Status(refusal) => refusal.status < 500,
        _ => false,
    }
}

/// The error for all agents, without the server's words to one credential.
pub(crate) fn for_everybody(cause: &Cause) -> String {
    match cause {
        Cause::Connect(_) | Cause::Tls(_) | Cause::Broken(_) | Cause::Timeout(_) | Cause::Closed(_) => {
            cause.to_string()
        }
        Cause::Gateway(refusal) => format!("backend unreachable behind its proxy: {}", refusal.status),
        Cause::Status(refusal) => format!("unexpected answer: {}", refusal.status),
        _ => "a credential is refused".to_owned(),
    }
}
