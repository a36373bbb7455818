//! State machine of an upstream session, without clock, runtime or IO.
//!
//! Only the driver feeds it; others read the published [`Standing`]. Silence does not end a session with calls in
//! flight: after a missed probe it is suspect (no new calls) until they end, because one synchronous tool can keep a
//! server from answering pings.

use std::time::{Duration, Instant};

use crate::kinds::CloseReason;

/// The state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// `initialize` was answered; the rest of the handshake is running.
    Initializing,
    /// Available to calls.
    Ready { last_seen: Instant, probe: Probe },
    /// A probe was missed or a connection broke: no new calls until a sign of life.
    Suspect { since: Instant, probe: Probe },
    /// No new calls; ends with its last one. `lost`: since when the backend has forgotten the session or accepts no
    /// connections; silence then ends it too.
    Draining { reason: CloseReason, lost: Option<Instant> },
    /// Ended.
    Closed(CloseReason),
}

/// State of the health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// No probe in flight.
    Idle { missed: u8 },
    /// A probe is in flight.
    Sent { missed: u8 },
}

/// The published state: is the session available?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Standing {
    Initializing = 0,
    Ready = 1,
    Suspect = 2,
    Draining = 3,
    Closed = 4,
}

/// An event of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    /// The handshake is complete.
    Handshaken,
    /// A sign of life of the backend.
    Heard,
    /// The silence timer fired.
    Silence,
    /// A probe was answered.
    ProbeAnswered,
    /// A probe timed out or failed.
    ProbeMissed,
    /// One connection of the session broke; the session itself may be fine.
    ConnectionBroke,
    /// The session's own stream broke.
    StreamLost,
    /// The backend rejected a message because it does not know the session. Its stream may still be open.
    SessionLost,
    /// The backend accepts no connections. The session's stream may still be open.
    Unreachable,
    /// The owner ends the session after its last call.
    Drain(CloseReason),
    /// The owner ends the session now, despite calls in flight.
    Cut(CloseReason),
    /// A call ended, or a timer of the drain fired.
    Settled,
}

/// Inputs from outside the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) now: Instant,
    pub(crate) in_flight: usize,
    /// Responses have their own connections (Streamable HTTP), so calls in flight may outlive the session.
    pub(crate) answers_apart: bool,
    /// The backend's last sign of life on it.
    pub(crate) last_heard: Instant,
    /// Time a lost session may be silent before its calls fail.
    pub(crate) drain: Duration,
}

/// Actions for the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) probe: bool,
    pub(crate) close: Option<CloseReason>,
}

/// Missed probes that end a session with nothing in flight.
const MISSES: u8 = 2;

impl State {
    pub(crate) fn standing(&self) -> Standing {
        match self {
            Self::Initializing => Standing::Initializing,
            Self::Ready { .. } => Standing::Ready,
            Self::Suspect { .. } => Standing::Suspect,
            Self::Draining { .. } => Standing::Draining,
            Self::Closed(_) => Standing::Closed,
        }
    }

    /// Applies one event. Exhaustive over state and event; a closed session ignores all.
    pub(crate) fn on(&mut self, input: Input, facts: Facts) -> Effects {
        match (&mut *self, input) {
            (Self::Closed(_), _) => Effects::default(),
            (Self::Initializing, Input::Handshaken) => self.ready(facts.now),
            (_, Input::StreamLost) => self.leave(CloseReason::Broken, facts),
            (Self::Initializing, Input::SessionLost) => self.close(CloseReason::Lost),
            (Self::Initializing, Input::Unreachable) => self.close(CloseReason::Broken),
            // Accepted calls may still be answered, on its stream or on their own connections.
            (_, Input::SessionLost) => self.drain(CloseReason::Lost, facts),
            (_, Input::Unreachable) => self.drain(CloseReason::Broken, facts),
            (_, Input::Cut(reason)) => self.close(reason),
            (Self::Initializing, Input::Drain(reason)) => self.close(reason),
            (Self::Initializing, _) => Effects::default(),
            (Self::Draining { .. }, Input::Settled) => self.settle(facts),
            // At shutdown, cancelled calls are no longer awaited.
            (Self::Draining { reason, .. }, Input::Drain(CloseReason::Shutdown)) => {
                *reason = CloseReason::Shutdown;
                self.settle(facts)
            }
            (Self::Draining { .. }, _) => Effects::default(),
            (_, Input::Drain(reason)) => self.drain(reason, facts),
            (_, Input::Heard | Input::ProbeAnswered) => self.ready(facts.now),
            (Self::Ready { probe, .. } | Self::Suspect { probe, .. }, Input::Silence) => Self::ask(probe),
            (Self::Ready { .. } | Self::Suspect { .. }, Input::ConnectionBroke) => self.doubt(facts.now),
            (Self::Ready { probe, .. } | Self::Suspect { probe, .. }, Input::ProbeMissed) => match *probe {
                Probe::Sent { missed } => self.miss(missed.saturating_add(1), facts),
                // A sign of life came after that probe, so its result is void.
                Probe::Idle { .. } => Effects::default(),
            },
            (Self::Suspect { probe, .. }, Input::Settled)
                if facts.in_flight == 0 && probe.missed() >= MISSES =>
            {
                self.close(CloseReason::Unresponsive)
            }
            (Self::Ready { .. } | Self::Suspect { .. }, Input::Settled | Input::Handshaken) => {
                Effects::default()
            }
        }
    }

    fn ready(&mut self, now: Instant) -> Effects {
        *self = Self::Ready { last_seen: now, probe: Probe::Idle { missed: 0 } };
        Effects::default()
    }

    fn ask(probe: &mut Probe) -> Effects {
        match *probe {
            Probe::Sent { .. } => Effects::default(),
            Probe::Idle { missed } => {
                *probe = Probe::Sent { missed };
                Effects { probe: true, close: None }
            }
        }
    }

    fn doubt(&mut self, now: Instant) -> Effects {
        let (Self::Ready { probe, .. } | Self::Suspect { probe, .. }) = self else {
            return Effects::default();
        };
        let mut probe = *probe;
        let effects = Self::ask(&mut probe);
        *self = Self::Suspect { since: now, probe };
        effects
    }

    fn miss(&mut self, missed: u8, facts: Facts) -> Effects {
        if facts.in_flight == 0 && missed >= MISSES {
            return self.close(CloseReason::Unresponsive);
        }
        // With calls in flight the next probe follows the next silence, else it is sent at once.
        let again = facts.in_flight == 0;
        let probe = if again { Probe::Sent { missed } } else { Probe::Idle { missed } };
        *self = Self::Suspect { since: facts.now, probe };
        Effects { probe: again, close: None }
    }

    /// Handles the end of the stream. Calls in flight with their own connections continue; others are lost.
    fn leave(&mut self, reason: CloseReason, facts: Facts) -> Effects {
        if facts.answers_apart && facts.in_flight > 0 && !matches!(self, Self::Initializing) {
            return self.drain(reason, facts);
        }
        self.close(reason)
    }

    fn drain(&mut self, reason: CloseReason, facts: Facts) -> Effects {
        if facts.in_flight == 0 {
            return self.close(reason);
        }
        let lost = matches!(reason, CloseReason::Lost | CloseReason::Broken).then_some(facts.now);
        match self {
            // The first reason and time are kept.
            Self::Draining { lost: known, .. } => *known = known.or(lost),
            _ => *self = Self::Draining { reason, lost },
        }
        Effects::default()
    }

    fn settle(&mut self, facts: Facts) -> Effects {
        let Self::Draining { reason, .. } = *self else { return Effects::default() };
        if facts.in_flight == 0 || self.is_given_up(facts) {
            return self.close(reason);
        }
        Effects::default()
    }

    fn is_given_up(&self, facts: Facts) -> bool {
        self.given_up_at(facts.last_heard, facts.drain).is_some_and(|at| facts.now >= at)
    }

    /// When the calls of a lost session fail, unless there is a sign of life. A retired session has no such time: its
    /// calls have their own deadlines.
    pub(crate) fn given_up_at(&self, last_heard: Instant, drain: Duration) -> Option<Instant> {
        match self {
            Self::Draining { lost: Some(since), .. } => Some((*since).max(last_heard) + drain),
            _ => None,
        }
    }

    fn close(&mut self, reason: CloseReason) -> Effects {
        *self = Self::Closed(reason);
        Effects { probe: false, close: Some(reason) }
    }
}

impl Probe {
    fn missed(self) -> u8 {
        match self {
            Self::Idle { missed } | Self::Sent { missed } => missed,
        }
    }
}

impl Standing {
    pub(crate) fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Initializing,
            1 => Self::Ready,
            2 => Self::Suspect,
            3 => Self::Draining,
            _ => Self::Closed,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests;
