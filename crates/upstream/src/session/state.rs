//! The life of one upstream session, as a pure machine: no clock, no runtime, no IO.
//!
//! Only the driver feeds it; everyone else reads the published [`Standing`]. Silence is not death: a session with
//! work in flight that misses a probe becomes suspect (no new work) and lives on until its calls end, because one
//! synchronous tool can keep a whole server from answering pings.

use std::time::{Duration, Instant};

use crate::observe::CloseReason;

/// What the machine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// `initialize` was answered; the rest of the ladder is being climbed.
    Initializing,
    /// Lent to callers.
    Ready { last_seen: Instant, probe: Probe },
    /// Missed a probe, or a connection of it broke: no new work until it is heard of again.
    Suspect { since: Instant, probe: Probe },
    /// No new work; ends with its last call. `lost` is since when the backend is known to have forgotten it, or to take
    /// no connections: then silence ends it, too.
    Draining { reason: CloseReason, lost: Option<Instant> },
    /// Over.
    Closed(CloseReason),
}

/// Where the liveness probe stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// None outstanding.
    Idle { missed: u8 },
    /// Sent, not answered.
    Sent { missed: u8 },
}

/// What others may know: may it be lent?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Standing {
    Initializing = 0,
    Ready = 1,
    Suspect = 2,
    Draining = 3,
    Closed = 4,
}

/// What happens to a session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    /// Every rung of the ladder was reached.
    Handshaken,
    /// The backend said something.
    Heard,
    /// The silence timer fired.
    Silence,
    /// A probe was answered.
    ProbeAnswered,
    /// A probe was not answered in time, or failed.
    ProbeMissed,
    /// One connection of the session broke; the session itself may be fine.
    ConnectionBroke,
    /// The session's own stream broke.
    StreamLost,
    /// A message was refused because the backend does not know the session; its stream may still be open.
    SessionLost,
    /// Nobody takes a connection at the backend's address; the session's stream may still be open.
    Unreachable,
    /// Whoever owns it wants it to end with its last call.
    Drain(CloseReason),
    /// Whoever owns it wants it to end now, whatever is in flight.
    Cut(CloseReason),
    /// A call ended, or a timer of the drain fired.
    Settled,
}

/// What the machine needs to know about its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) now: Instant,
    pub(crate) in_flight: usize,
    /// Answers come on connections of their own (Streamable HTTP), so calls in flight may outlive the session.
    pub(crate) answers_apart: bool,
    /// When the backend last said something on it.
    pub(crate) last_heard: Instant,
    /// How long a session that is lost may be silent before its calls are given up.
    pub(crate) drain: Duration,
}

/// What the driver must do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) probe: bool,
    pub(crate) close: Option<CloseReason>,
}

/// Probes that may be missed with nothing in flight before the session is given up.
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

    /// Takes one input. Exhaustive over state and input; a closed session takes nothing.
    pub(crate) fn on(&mut self, input: Input, facts: Facts) -> Effects {
        match (&mut *self, input) {
            (Self::Closed(_), _) => Effects::default(),
            (Self::Initializing, Input::Handshaken) => self.ready(facts.now),
            (_, Input::StreamLost) => self.leave(CloseReason::Broken, facts),
            (Self::Initializing, Input::SessionLost) => self.close(CloseReason::Lost),
            (Self::Initializing, Input::Unreachable) => self.close(CloseReason::Broken),
            // What it took before may still be answered, on its stream or on connections of its own.
            (_, Input::SessionLost) => self.drain(CloseReason::Lost, facts),
            (_, Input::Unreachable) => self.drain(CloseReason::Broken, facts),
            (_, Input::Cut(reason)) => self.close(reason),
            (Self::Initializing, Input::Drain(reason)) => self.close(reason),
            (Self::Initializing, _) => Effects::default(),
            (Self::Draining { .. }, Input::Settled) => self.settle(facts),
            // Who it drains for may not be waited for any more.
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
                // Heard of since that probe was sent: it says nothing any more.
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
        // With work in flight the next probe waits for the next silence; with none it goes out at once.
        let again = facts.in_flight == 0;
        let probe = if again { Probe::Sent { missed } } else { Probe::Idle { missed } };
        *self = Self::Suspect { since: facts.now, probe };
        Effects { probe: again, close: None }
    }

    /// The stream is over. Where answers come on their own connections, calls in flight still end by themselves;
    /// elsewhere they are lost with it.
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
            // The first reason stands, and so does the first moment.
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

    /// When the calls of a session that is lost are given up, unless it is heard of before. A session that is merely
    /// retired has no such moment: its calls have deadlines of their own.
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
