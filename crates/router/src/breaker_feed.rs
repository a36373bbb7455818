//! The breaker's feed: turns backend events into incidents and successes of the circuit. The gate beside it asks the
//! circuit before each handshake.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use mcpool_breaker::Breaker;
use mcpool_upstream::{
    Backend, BackendSpec, Cause, Endpoint, Event, Gate, Observe, OpenReason, Opening, Source,
};

use crate::{events::GatewayObserve, stack::now};

/// Gate that asks the circuit before each handshake.
pub(crate) struct BreakerGate {
    breaker: Breaker,
    /// The predecessor whose sessions must end first.
    after: Option<After>,
}

/// The previous process of a program, and how long to wait for its calls: shorter than `queue`, so that calls waiting
/// for the new process do not time out.
struct After {
    backend: Weak<Backend>,
    calls: Instant,
    /// The wait for writes is longer: concurrent writes are worse than a delay.
    writes: Instant,
}

impl After {
    fn is_in_the_way(&self, now: Instant) -> bool {
        self.backend.upgrade().is_some_and(|old| {
            (now < self.calls && old.has_shared()) || (now < self.writes && old.is_writing())
        })
    }
}

impl BreakerGate {
    /// A gate for this backend. A program restarts only after its predecessor ends, as both could write the same file.
    pub(crate) fn new(breaker: Breaker, spec: &BackendSpec, before: Option<&Arc<Backend>>) -> Self {
        let is_process = |spec: &BackendSpec| matches!(spec.endpoint, Endpoint::Stdio(_));
        let waits_for = before.filter(|old| is_process(spec) && is_process(old.spec()));
        let times = &spec.times;
        let after = waits_for.map(|old| After {
            backend: Arc::downgrade(old),
            calls: now() + times.drain.min(times.queue / 2),
            writes: now() + times.drain,
        });
        Self { breaker, after }
    }
}

impl Gate for BreakerGate {
    fn may_open(&self, now: Instant) -> Opening {
        if self.after.as_ref().is_some_and(|after| after.is_in_the_way(now)) {
            return Opening::Wait(now + LOOK_AGAIN);
        }
        match self.breaker.may_open(now) {
            mcpool_breaker::Opening::Free => Opening::Free,
            mcpool_breaker::Opening::Probe => Opening::Probe,
            mcpool_breaker::Opening::Wait(at) => Opening::Wait(at),
        }
    }

    fn wants_probe(&self, now: Instant) -> bool {
        self.breaker.would_admit(now).is_err()
    }
}

/// Observer that feeds the circuit with session events and forwards all events.
pub(crate) struct Feed {
    breaker: Breaker,
    backend: Arc<OnceLock<Weak<Backend>>>,
    crash: Mutex<Crash>,
    next: Arc<dyn GatewayObserve>,
}

/// Groups the losses of one crash. A crashing backend loses its sessions within moments, which is one incident. The
/// next session may be opened on an old connection whose end the client has not noticed, and break too: the same crash.
#[derive(Debug, Default)]
struct Crash {
    /// The last counted crash: its time and the newest session at that time.
    counted: Option<(Instant, u64)>,
    /// The newest session.
    newest: u64,
    /// The newest session opened while stale connections were still possible.
    hurried: u64,
}

impl Crash {
    fn opening(&mut self, epoch: u64, now: Instant) {
        self.newest = self.newest.max(epoch);
        if self.counted.is_some_and(|(at, _)| now.saturating_duration_since(at) < STALE) {
            self.hurried = self.newest;
        }
    }

    /// True if a failed opening belongs to the counted crash.
    fn is_same_crash(&self, epoch: u64, kind: &str, now: Instant) -> bool {
        let is_soon = |at| now.saturating_duration_since(at) < ONE_CRASH;
        kind == "broken" && epoch <= self.hurried && self.counted.is_some_and(|(at, _)| is_soon(at))
    }

    /// True if the loss of this session is a new crash; counts it.
    fn is_new_crash(&mut self, epoch: u64, now: Instant) -> bool {
        let is_same = self
            .counted
            .is_some_and(|(at, newest)| epoch <= newest && now.saturating_duration_since(at) < ONE_CRASH);
        if !is_same {
            self.counted = Some((now, self.newest));
            self.hurried = self.newest;
        }
        !is_same
    }
}

/// Time within which losses belong to one crash.
const ONE_CRASH: Duration = Duration::from_secs(1);
/// Time within which idle connections of before the crash may be reused. Shorter than two pauses between handshakes, so
/// that a backend which breaks every handshake is still detected.
const STALE: Duration = Duration::from_millis(100);

impl Feed {
    /// A feed of this circuit. The cell holds the backend once it runs.
    pub(crate) fn new(
        breaker: Breaker,
        backend: Arc<OnceLock<Weak<Backend>>>,
        next: Arc<dyn GatewayObserve>,
    ) -> Self {
        Self { breaker, backend, crash: Mutex::default(), next }
    }

    /// True if the backend is paused or drained; a failed probe then proves nothing.
    fn is_shut(&self) -> bool {
        self.backend.get().and_then(Weak::upgrade).is_some_and(|backend| backend.traffic().is_shut())
    }

    fn crash(&self) -> MutexGuard<'_, Crash> {
        self.crash.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observe for Feed {
    fn on(&self, backend: &Source, event: Event<'_>) {
        let now = now();
        if let Event::Opening { epoch, .. } = &event {
            self.crash().opening(*epoch, now);
        }
        match &event {
            Event::Opening { epoch, reason: OpenReason::Probe } => self.breaker.probe_started(*epoch, now),
            Event::Opened { epoch, reason: OpenReason::Probe, .. } => {
                self.breaker.probe_succeeded(*epoch, now)
            }
            Event::Opened { epoch, started, .. } => self.breaker.success(*epoch, *started, now),
            Event::OpenFailed { epoch, reason: OpenReason::Probe, incident, cause, .. } => match incident {
                Some(kind) => self.breaker.probe_failed(*epoch, kind, now),
                None if self.is_shut() || **cause == Cause::Descriptors => self.breaker.probe_abandoned(now),
                // A proxy answered without its backend.
                None if cause.is_of_another() || matches!(cause, Cause::Pressure(_)) => {
                    self.breaker.probe_inconclusive(*epoch, now);
                }
                // The backend rejected the handshake, so it is up; a circuit cannot heal the cause.
                None => self.breaker.probe_succeeded(*epoch, now),
            },
            Event::OpenFailed { epoch, incident: Some(kind), .. }
                if !self.crash().is_same_crash(*epoch, kind, now) =>
            {
                self.breaker.incident(*epoch, kind, now);
            }
            Event::Closed { epoch, incident: Some(kind), .. } if self.crash().is_new_crash(*epoch, now) => {
                self.breaker.incident(*epoch, kind, now);
            }
            Event::Answered { epoch, started, .. } => self.breaker.success(*epoch, *started, now),
            _ => {}
        }
        self.next.on(backend, event);
    }
}

/// Interval at which a new process checks whether its predecessor has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_lost_together_are_one_crash_and_one_opened_since_is_another() {
        let start = now();
        let mut crash = Crash::default();
        (1..=8).for_each(|epoch| crash.opening(epoch, start));
        let lost =
            |crash: &mut Crash, epoch, ms| crash.is_new_crash(epoch, start + Duration::from_millis(ms));
        assert!(lost(&mut crash, 3, 0));
        for epoch in [1, 2, 4, 5, 6, 7, 8] {
            assert!(!lost(&mut crash, epoch, 10 * epoch));
        }
        crash.opening(9, start + Duration::from_millis(90));
        assert!(lost(&mut crash, 9, 100), "it was opened after the crash, and broke all the same");
        assert!(!lost(&mut crash, 7, 1_050));
        assert!(lost(&mut crash, 8, 1_100), "too late to be the same");
    }

    #[test]
    fn an_opening_that_breaks_on_a_connection_of_before_is_the_same_crash_and_the_next_is_not() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut crash = Crash::default();
        crash.opening(1, start);
        assert!(!crash.is_same_crash(1, "broken", start), "nothing broke before");
        crash.opening(2, at(9));
        assert!(crash.is_new_crash(1, at(10)));
        crash.opening(3, at(20));
        assert!(crash.is_same_crash(2, "broken", at(30)) && crash.is_same_crash(3, "broken", at(30)));
        assert!(!crash.is_same_crash(3, "connect", at(30)), "a rejected session had a new connection");
        assert!(!crash.is_same_crash(3, "broken", at(1_010)), "too late");
        crash.opening(4, at(120));
        assert!(!crash.is_same_crash(4, "broken", at(130)), "opened with the crash behind it");
    }
}
