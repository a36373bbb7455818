//! The age and activity of a session, and its status.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{Session, state::Standing};
use crate::{clock, kinds::Mode};

/// One session from outside.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// Its epoch: its name in the log.
    pub epoch: u64,
    /// Who may use it.
    pub mode: Mode,
    /// `initializing`, `ready`, `suspect`, `draining`, `closed`.
    pub standing: &'static str,
    /// Calls in flight.
    pub in_flight: usize,
    /// Entries in its book, zombies and the gateway's own requests included.
    pub pending: usize,
    /// Its age.
    pub age: Duration,
}

impl Session {
    /// The idle time; zero while a call is in flight.
    pub(crate) fn idle_for(&self) -> Duration {
        if self.in_flight() > 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.nanos().saturating_sub(self.last_used.load(Ordering::Relaxed)))
    }

    pub(crate) fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.opened)
    }

    /// The configured age minus up to 10 %, so that sessions opened together do not end together.
    pub(crate) fn max_age(&self, configured: Duration) -> Duration {
        configured.mul_f64(0.9 + 0.1 * f64::from(u32::try_from(self.epoch % 16).unwrap_or(0)) / 16.0)
    }

    /// True if its handshake completed; its end is then an event of its own.
    pub(crate) fn was_proven(&self) -> bool {
        self.proven.load(Ordering::SeqCst)
    }

    pub(crate) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    pub(crate) fn status(&self, now: Instant) -> SessionStatus {
        SessionStatus {
            epoch: self.epoch,
            mode: self.mode,
            standing: self.standing().as_str(),
            in_flight: self.in_flight(),
            pending: self.pending(),
            age: now.saturating_duration_since(self.opened),
        }
    }

    /// Records a sign of life: any byte of the backend.
    pub(super) fn heard(&self) {
        self.last_heard.store(self.nanos(), Ordering::SeqCst);
        if self.standing() == Standing::Suspect {
            self.nudge.notify_one();
        }
    }

    /// The time of the last tool call; `None` if there was none.
    pub(super) fn last_tool_call(&self) -> Option<Instant> {
        let at = self.last_tool.load(Ordering::Relaxed);
        match at {
            0 => None,
            // A running call may be the cause at any moment.
            _ if self.in_flight() > 0 => Some(clock::now()),
            nanos => Some(self.opened + Duration::from_nanos(nanos)),
        }
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.opened + Duration::from_nanos(self.last_heard.load(Ordering::SeqCst))
    }

    pub(super) fn touch(&self) {
        self.last_used.store(self.nanos(), Ordering::Relaxed);
    }

    pub(super) fn nanos(&self) -> u64 {
        u64::try_from(clock::now().saturating_duration_since(self.opened).as_nanos()).unwrap_or(u64::MAX)
    }
}
