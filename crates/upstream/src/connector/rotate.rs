//! Replacement of sessions one at a time, on the operator's request: the new one is ready before the old one stops
//! taking calls. If there is no place for both, or two must not write at once, the old one ends first and calls wait.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::FutureExt as _;

use super::{Connector, Wanted, handshake::run_handshake};
use crate::{
    backend::{Old, Opening, lock},
    clock,
    error::SendError,
    kinds::{CloseReason, Mode, OpenReason},
    pool::{Counted, Pool},
    session::{Session, state::Standing},
};

#[derive(Default)]
pub(super) struct Rotation {
    queue: VecDeque<Old>,
    step: Step,
    failures: u32,
    /// Since when it waits for the end of a write.
    writing_since: Option<Instant>,
    /// The time of the next step, if no event wakes it.
    pub(super) next: Option<Instant>,
}

/// The state of one replacement.
#[derive(Default)]
enum Step {
    #[default]
    Idle,
    /// The old session ends before there is another.
    Leaving(Old),
    /// A new session is to be opened.
    Wanted(Successor),
    /// The new session is being opened.
    Opening(Successor),
}

struct Successor {
    pool: Arc<Pool>,
    /// The session to replace, if it still exists.
    old: Option<Arc<Session>>,
}

/// Failures in a row after which the remaining sessions are left alone.
const MAX_FAILURES: u32 = 3;
/// Interval of attempts while the circuit is not closed.
const AGAIN: Duration = Duration::from_millis(250);

impl Connector {
    /// Goes as far as possible now.
    pub(super) async fn rotate(&mut self) {
        if let Some(plan) = lock(&self.backend.rebuilding).plan.take() {
            self.rotation.queue = plan;
            self.backend.transport.renew();
            self.rotation.failures = 0;
        }
        self.rotation.next = None;
        if self.backend.traffic().is_shut() {
            return self.end_all();
        }
        loop {
            self.rotation.step = match std::mem::take(&mut self.rotation.step) {
                Step::Idle => match self.rotation.queue.pop_front() {
                    Some(old) if self.waits_for_write(&old) => {
                        self.rotation.queue.push_front(old);
                        return self.stay(Step::Idle);
                    }
                    Some(old) => self.begin(old),
                    None => return lock(&self.backend.rebuilding).progress.is_running = false,
                },
                // A session that only waits for its last call blocks the next one by its place alone.
                Step::Leaving(old) if old.session.holds_place() && self.is_in_the_way(&old) => {
                    return self.stay(Step::Leaving(old));
                }
                Step::Leaving(old) if old.pool.mode() == Mode::Pinned => self.done(),
                Step::Leaving(old) => Step::Wanted(Successor { pool: old.pool, old: None }),
                Step::Wanted(successor) => match self.open(successor).await {
                    Ok(step) => step,
                    Err(waits) => return self.stay(Step::Wanted(waits)),
                },
                opening @ Step::Opening(_) => return self.stay(opening),
            };
        }
    }

    /// Handles the end of a handshake for a replacement.
    pub(super) fn rotated(&mut self, outcome: Result<(), &SendError>) {
        let Step::Opening(successor) = std::mem::take(&mut self.rotation.step) else { return };
        let error = match outcome {
            Ok(()) => {
                if let Some(old) = successor.old {
                    old.drain(CloseReason::Operator);
                }
                self.rotation.failures = 0;
                self.rotation.step = self.done();
                return;
            }
            Err(error) => error,
        };
        self.rotation.failures += 1;
        if self.rotation.failures < MAX_FAILURES {
            self.rotation.step = Step::Wanted(successor);
            return;
        }
        self.rotation.queue.clear();
        let mut rebuilding = lock(&self.backend.rebuilding);
        rebuilding.progress.why = Some(error.to_string());
        rebuilding.progress.is_running = false;
    }

    fn stay(&mut self, step: Step) {
        self.rotation.step = step;
    }

    /// True if the replacement waits for the write that runs on the session: the next session would have to wait for
    /// it, and every call too. Bounded, because there may always be a write.
    fn waits_for_write(&mut self, old: &Old) -> bool {
        let now = clock::now();
        if !old.session.is_live() || !old.session.is_writing() {
            self.rotation.writing_since = None;
            return false;
        }
        let since = *self.rotation.writing_since.get_or_insert(now);
        let waits = now.saturating_duration_since(since) < self.backend.spec.times.drain;
        self.rotation.next = waits.then(|| now + AGAIN);
        if !waits {
            self.rotation.writing_since = None;
        }
        waits
    }

    fn is_in_the_way(&self, old: &Old) -> bool {
        old.pool.mode() != Mode::Shared
            || !self.backend.policy.writes_in_turn()
            || old.session.standing() != Standing::Draining
            || old.session.is_writing()
    }

    fn begin(&self, old: Old) -> Step {
        if !old.session.is_live() {
            return self.done();
        }
        let alone = self.backend.policy.writes_in_turn() && old.pool.mode() == Mode::Shared;
        if alone || old.pool.mode() == Mode::Pinned {
            old.session.drain(CloseReason::Operator);
            return Step::Leaving(old);
        }
        Step::Wanted(Successor { pool: old.pool, old: Some(old.session) })
    }

    async fn open(&mut self, successor: Successor) -> Result<Step, Successor> {
        let now = clock::now();
        let others = self.there(&successor.pool) + successor.pool.opening.load(Ordering::Acquire);
        if successor.old.is_none() && others >= self.backend.sessions_of(&successor.pool) {
            // A waiting call had it opened.
            return Ok(self.done());
        }
        if self.openings.len() >= self.backend.spec.limits.max_creating {
            return Err(successor);
        }
        let paused = self.paused_until(&successor.pool, OpenReason::Reconnect).filter(|at| *at > now);
        // An open circuit is probed first, by another handshake.
        let shut = self.backend.gate.wants_probe(now).then(|| now + AGAIN);
        if let Some(at) = paused.max(shut) {
            self.rotation.next = Some(at);
            return Err(successor);
        }
        let Some(place) = self.backend.budget.take().await else {
            return Ok(match successor.old {
                Some(session) => {
                    session.drain(CloseReason::Operator);
                    Step::Leaving(Old { pool: successor.pool, session })
                }
                // A waiting call took its place.
                None => self.done(),
            });
        };
        if self.backend.gate.may_open(now) != Opening::Free {
            self.rotation.next = Some(now + AGAIN);
            return Err(successor);
        }
        self.backend.transport.renew();
        let pool = successor.pool.clone();
        let counted = Counted::new(&pool, |pool| &pool.opening);
        let wanted = Wanted { pool, reason: OpenReason::Reconnect, request: None };
        let opening = run_handshake(self.backend.clone(), wanted, OpenReason::Reconnect, place, counted);
        self.openings.push(opening.boxed());
        Ok(Step::Opening(successor))
    }

    fn done(&self) -> Step {
        lock(&self.backend.rebuilding).progress.done += 1;
        Step::Idle
    }

    /// Ends all at once while no calls flow; new ones are opened on resume.
    fn end_all(&mut self) {
        let under_way = match std::mem::take(&mut self.rotation.step) {
            Step::Idle => None,
            Step::Leaving(old) => Some(old.session),
            Step::Wanted(successor) | Step::Opening(successor) => successor.old,
        };
        let queued = self.rotation.queue.drain(..).map(|old| old.session);
        for session in queued.chain(under_way) {
            session.drain(CloseReason::Operator);
        }
        let progress = &mut lock(&self.backend.rebuilding).progress;
        progress.done = progress.total;
        progress.is_running = false;
    }
}
