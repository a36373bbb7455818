//! The queue of one backend: bounded in calls and bytes, fair over principals and their agents, left by
//! dropping.
//!
//! Callers wait in lanes: one per session for agents that keep to a session, one per pool for the others, one per
//! session for calls of agents that have some in flight there already (the last permits are not for them), and, where
//! writes run one at a time, one per session for the turn to write. A free permit wakes one waiter whom it can serve,
//! whoever's turn is earliest; in a lane principals take turns, and the agents of a principal take turns, so neither a
//! principal with a thousand agents nor an agent with a thousand calls starves the others. A wake-up is permission to
//! try, not a permit: who finds nothing goes back to its old turn, and who leaves (the queue or the lane) with an unused
//! wake-up passes it on, because the permit it stands for is still free.
//!
//! Of the calls of an agent that has nothing in flight on its session, one at least waits in the session's own lane or
//! was called up: the others may stand where the last permits are not looked for.
//!
//! A full queue is shared too: who would have less in it than the heaviest takes the place of the heaviest's latest
//! call.

mod drain_rate;
mod round_robin;
mod usage;
mod waiter;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcpool_wire::{AgentKey, Identity};
use tokio::sync::Notify;

pub use self::waiter::{Displaced, Waiter};
use self::{round_robin::Inner, usage::Measure};
use crate::sync::{Mutex, MutexGuard};

/// Where a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The pool, by its number.
    pub pool: u64,
    /// The session the agent keeps to, by its epoch.
    pub session: Option<u64>,
    /// For what.
    pub need: Need,
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// A permit.
    Permit,
    /// A permit that is not kept for agents with nothing in flight on the session.
    OpenPermit,
    /// The turn to write on the session as well, where writes run one at a time.
    WriteTurn,
}

/// Who waits, and how much of the queue the call takes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whose agent it is.
    pub principal: Arc<Identity>,
    /// The agent.
    pub agent: AgentKey,
    /// Of its message.
    pub bytes: usize,
}

/// How much fits into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Calls that may wait.
    pub calls: usize,
    /// Bytes of their messages.
    pub bytes: usize,
}

/// The queue is full, and nobody in it has more of it than the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// Which limit it would pass.
    pub of: QueueLimit,
    /// When a place will be free, at the pace the queue empties; each who is told so is told a later one.
    pub retry_after: Duration,
}

/// One limit of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// So many calls wait.
    Calls(usize),
    /// The calls that wait may have so many bytes.
    Bytes(usize),
}

/// What came free on a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freed {
    /// The session's own.
    pub(crate) lane: Lane,
    /// The turn to write with the permit.
    pub(crate) turn: bool,
    /// More permits are free than are kept for agents with nothing in flight.
    pub(crate) open: bool,
}

/// What waits now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Calls, those just woken included.
    pub calls: usize,
    /// Bytes of their messages.
    pub bytes: usize,
    /// What may wait.
    pub limits: QueueLimits,
    /// How long the call that waits longest has waited.
    pub oldest: Option<Duration>,
}

/// The queue.
pub struct Queue {
    inner: Mutex<Inner>,
    limits: QueueLimits,
    /// Somebody waits who did not wait there before: a session may have to be opened.
    pub(crate) demand: Notify,
}

impl Queue {
    /// A queue with these limits.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner::default()), limits, demand: Notify::new() })
    }

    /// Takes a place behind the agent's other calls.
    ///
    /// # Errors
    /// [`QueueFull`] at a limit.
    pub fn enter(self: &Arc<Self>, lane: Lane, entry: Entry, now: Instant) -> Result<Waiter, QueueFull> {
        let mut inner = self.lock();
        if let Err(of) = self.make_room(&mut inner, &entry) {
            let retry_after = inner.drain_rate.book(now, self.limits.calls);
            return Err(QueueFull { of, retry_after });
        }
        Ok(self.admit(inner, lane, entry, false, now))
    }

    /// Takes a place before all newcomers, for a call that was being served and must go again. The permits they had are
    /// the bound on them, so the limits do not turn them away.
    pub fn come_back(self: &Arc<Self>, lane: Lane, entry: Entry, now: Instant) -> Waiter {
        self.admit(self.lock(), lane, entry, true, now)
    }

    fn admit(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        lane: Lane,
        entry: Entry,
        returned: bool,
        now: Instant,
    ) -> Waiter {
        if inner.usage.all().calls == 0 {
            inner.drain_rate.begin(now);
        }
        inner.usage.add(&entry);
        let place = inner.place(returned);
        let waiter = Waiter::enqueue(self.clone(), &mut inner, lane, entry, (place, now));
        drop(inner);
        self.demand.notify_one();
        waiter
    }

    /// Sees to it that the entry fits, if need be by sending away calls of who has more in the queue.
    fn make_room(&self, inner: &mut Inner, entry: &Entry) -> Result<(), QueueLimit> {
        for (measure, limit) in [
            (Measure::Calls, QueueLimit::Calls(self.limits.calls)),
            (Measure::Bytes, QueueLimit::Bytes(self.limits.bytes)),
        ] {
            let (QueueLimit::Calls(most) | QueueLimit::Bytes(most)) = limit;
            let more = measure.of_entry(entry);
            while measure.of(inner.usage.all()) + more > most {
                let heaviest = inner.usage.heavier_than(entry, measure);
                let is_gone = heaviest.is_some_and(|(principal, agent)| inner.dismiss(&principal, agent));
                if !is_gone {
                    return Err(limit);
                }
            }
        }
        Ok(())
    }

    /// Whether nobody waits at all: then a caller may try without a place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().usage.all().calls == 0
    }

    /// A permit is free, perhaps with the turn to write: one waiter whom it can serve may try. Whoever waits for the
    /// turn is first, because it can use both. `idle` is the agent that gave it back, if it has nothing in flight on
    /// the session any more: a call of it that did not look for the last permits may do so now.
    pub(crate) fn permit_freed(&self, freed: Freed, idle: Option<(&Arc<Identity>, AgentKey)>) {
        if mutant!(FreedSlotWakesNobody) {
            return;
        }
        let mut inner = self.lock();
        inner.call_up(freed);
        if let Some((principal, agent)) = idle.filter(|_| !mutant!(IdleAgentForgotten)) {
            inner.wake_agent(freed, principal, agent);
        }
    }

    /// A session with this many permits is ready: as many waiters may try, those who keep to it first.
    pub fn session_ready(&self, lane: Lane, permits: usize) {
        let freed = Freed { lane, turn: false, open: true };
        let mut inner = self.lock();
        let _ = inner.wake_one(lane.needing(Need::WriteTurn), freed);
        for _ in 0..permits {
            let woken = [lane, lane.of_pool(), lane.needing(Need::OpenPermit)]
                .into_iter()
                .any(|lane| inner.wake_one(lane, freed));
            if !woken {
                return;
            }
        }
    }

    /// A session takes no more calls: who kept to it waits for any session of the pool, and may look around at once.
    pub fn session_gone(&self, lane: Lane) {
        let mut inner = self.lock();
        for need in [Need::Permit, Need::OpenPermit, Need::WriteTurn] {
            inner.wake_all_in(lane.needing(need));
        }
    }

    /// Everyone may try: the circuit changed.
    pub fn wake_all(&self) {
        let mut inner = self.lock();
        let lanes: Vec<Lane> = inner.lanes.keys().copied().collect();
        for lane in lanes {
            inner.wake_all_in(lane);
        }
    }

    /// How many calls wait in one lane.
    #[must_use]
    pub fn waiting_in(&self, lane: Lane) -> usize {
        self.lock().lanes.get(&lane).map_or(0, |queue| queue.present)
    }

    /// How many calls wait, those just woken included.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().usage.all().calls
    }

    /// What waits at this moment.
    #[must_use]
    pub fn status(&self, now: Instant) -> Waiting {
        let inner = self.lock();
        let all = inner.usage.all();
        Waiting {
            calls: all.calls,
            bytes: all.bytes,
            limits: self.limits,
            oldest: inner.oldest().map(|since| now.saturating_duration_since(since)),
        }
    }

    /// How long a call that takes its place behind everybody now would wait, at the pace the queue empties.
    #[must_use]
    pub fn turn_after(&self, now: Instant) -> Duration {
        let mut inner = self.lock();
        let waiting = inner.usage.all().calls;
        inner.drain_rate.time_for(waiting, now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics while it holds the lock; a poisoned queue would only mean lost fairness.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Lane {
    /// Where agents wait that keep to no session.
    #[must_use]
    pub fn of_pool(self) -> Self {
        Self { session: None, need: Need::Permit, ..self }
    }

    /// Where calls wait for something else of the same session.
    #[must_use]
    pub fn needing(self, need: Need) -> Self {
        Self { need, ..self }
    }
}

#[cfg(test)]
mod tests;
