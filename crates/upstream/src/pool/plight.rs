//! What is wrong with one pool: why its last handshake failed, when the next one may be tried, and who is to be told.
//!
//! Where agents bring credentials of their own (`forward_headers`) each pool has its own plight: what a server says to
//! one credential keeps no other one waiting, and nobody else reads it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use crate::{
    error::{Cause, SendError},
    kinds::OpenReason,
};

/// Why the last handshake failed.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// For a human.
    pub why: String,
    /// When.
    pub since: Instant,
    /// How many in a row.
    pub times: u32,
    /// It will be repeated until somebody changes something.
    pub is_refusal: bool,
}

/// Handshakes refused in a row after which nobody waits long for the next.
pub(crate) const REFUSALS: u32 = 3;

/// The plight of a pool.
pub(crate) struct Plight {
    inner: Mutex<Inner>,
    /// The last refusal: told to who waits for the pool's first handshake.
    refusal: watch::Sender<Option<Arc<SendError>>>,
}

#[derive(Default)]
struct Inner {
    trouble: Option<Trouble>,
    pause: Option<Pause>,
    /// When its latest handshake began.
    begun: Option<Instant>,
}

/// After a failed handshake: how long the next one waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pause {
    /// Somebody waiting makes it shorter.
    Failed { waited: Instant, idle: Instant },
    /// The backend is at its limit and said so.
    Pressure(Instant),
}

impl Pause {
    /// When a handshake for this reason may be tried. With `probing` the circuit has its own pauses.
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

    /// Whether it is still kept waiting: then it is not forgotten, or it would not be.
    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        self.pause().and_then(|pause| pause.until(OpenReason::Demand, false)).is_some_and(|at| at > now)
    }

    /// A handshake begins.
    pub(crate) fn begins(&self, now: Instant) {
        self.lock().begun = Some(now);
    }

    pub(crate) fn begun(&self) -> Option<Instant> {
        self.lock().begun
    }

    /// A handshake failed.
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

    /// A handshake succeeded, or the operator says that all is well.
    pub(crate) fn mended(&self) {
        let mut inner = self.lock();
        (inner.trouble, inner.pause) = (None, None);
    }

    /// Resolves when a handshake is refused in words from now on.
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
        // Consistent between any two statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server answered, so that it is there and only this credential is refused.
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

/// Whether the same credential is told the same again at once: who waits need not wait on.
pub(crate) fn is_final(cause: &Cause) -> bool {
    match cause {
        Cause::Credential(_) | Cause::Protocol(_) => true,
        Cause::Status(refusal) => refusal.status < 500,
        _ => false,
    }
}

/// Why a handshake failed, without the words a server said to the one credential it was for.
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
