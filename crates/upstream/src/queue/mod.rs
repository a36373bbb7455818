//! The queue of one backend: bounded in calls and bytes, fair over principals and their agents. Dropping a [`Waiter`]
//! leaves it.
//!
//! Calls wait in lanes. Each session has a lane for agents bound to it, one for agents with calls in flight there (the
//! last permits are reserved for others), and one for the write turn if writes run one at a time. Each pool has a lane for
//! all other calls. A free permit wakes the waiter with the earliest turn among the lanes it serves. Principals of a lane
//! take turns, and so do the agents of a principal: neither a principal with a thousand agents nor an agent with a
//! thousand calls starves the others.
//!
//! A wake-up allows a call to try; it is no permit. A call that finds none returns to its old turn. A call that leaves the
//! queue or the lane with an unused wake-up passes it on, because the permit is still free.
//!
//! If an agent has nothing in flight on its session, at least one of its calls waits in the session's own lane or is
//! woken; the others may wait in the lane that does not get the last permits.
//!
//! A full queue is shared fairly: a new call replaces the latest call of the heaviest agent, if its own agent would hold
//! less.

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

/// The lane a call waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The pool, by its number.
    pub pool: u64,
    /// The session the agent is bound to, by its epoch.
    pub session: Option<u64>,
    /// The thing it waits for.
    pub need: Need,
}

/// The thing a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// A permit.
    Permit,
    /// A permit that is not reserved for agents with nothing in flight on the session.
    OpenPermit,
    /// A permit and the write turn of the session.
    WriteTurn,
}

/// A call of the queue: its agent and its size.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The principal of the agent.
    pub principal: Arc<Identity>,
    /// The agent.
    pub agent: AgentKey,
    /// The size of its message.
    pub bytes: usize,
}

/// Limits of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Calls that may wait.
    pub calls: usize,
    /// Bytes of their messages.
    pub bytes: usize,
}

/// Rejection by a full queue in which no agent holds more than the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// The limit that is reached.
    pub of: QueueLimit,
    /// The expected time to a free place, from the drain rate. Each rejected call gets a later one.
    pub retry_after: Duration,
}

/// One limit of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// The number of calls.
    Calls(usize),
    /// The bytes of their messages.
    Bytes(usize),
}

/// A permit that came free on a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freed {
    /// The session's own lane.
    pub(crate) lane: Lane,
    /// True if the write turn is free too.
    pub(crate) turn: bool,
    /// True if it is not one of the reserved permits.
    pub(crate) open: bool,
}

/// The waiting calls at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The number of calls, including those just woken.
    pub calls: usize,
    /// Bytes of their messages.
    pub bytes: usize,
    /// The limits.
    pub limits: QueueLimits,
    /// The wait of the oldest call.
    pub oldest: Option<Duration>,
}

/// The queue of a backend.
pub struct Queue {
    inner: Mutex<Inner>,
    limits: QueueLimits,
    /// Wakes the connector: a new call waits, so a session may have to be opened.
    pub(crate) demand: Notify,
}

impl Queue {
    /// A queue with these limits.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner::default()), limits, demand: Notify::new() })
    }

    /// Adds a call behind the agent's other calls.
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

    /// Adds a call that was being served and must be sent again, before all new calls. The limits do not apply: their
    /// number is bounded by the permits they had.
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

    /// Makes the entry fit, if need be by rejecting calls of agents that hold more.
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

    /// True if no call waits; then a new call may try without joining.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().usage.all().calls == 0
    }

    /// Wakes one call that a free permit can serve. With the write turn, a call waiting for the turn is first, because it
    /// can use both. `idle`: the agent that released it, if it now has nothing in flight on the session; one of its
    /// calls may then use a reserved permit.
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

    /// Wakes as many calls as a new session has permits, those bound to it first.
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

    /// Wakes all calls bound to a session that takes no more; they continue with any session of the pool.
    pub fn session_gone(&self, lane: Lane) {
        let mut inner = self.lock();
        for need in [Need::Permit, Need::OpenPermit, Need::WriteTurn] {
            inner.wake_all_in(lane.needing(need));
        }
    }

    /// Wakes all calls, after a change of the circuit.
    pub fn wake_all(&self) {
        let mut inner = self.lock();
        let lanes: Vec<Lane> = inner.lanes.keys().copied().collect();
        for lane in lanes {
            inner.wake_all_in(lane);
        }
    }

    /// The number of calls waiting in one lane.
    #[must_use]
    pub fn waiting_in(&self, lane: Lane) -> usize {
        self.lock().lanes.get(&lane).map_or(0, |queue| queue.present)
    }

    /// The number of waiting calls, including those just woken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().usage.all().calls
    }

    /// The waiting calls at this moment.
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

    /// The expected wait of a call that joins now, from the drain rate.
    #[must_use]
    pub fn turn_after(&self, now: Instant) -> Duration {
        let mut inner = self.lock();
        let waiting = inner.usage.all().calls;
        inner.drain_rate.time_for(waiting, now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics under the lock; a poisoned queue would only lose fairness.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Lane {
    /// The lane of the pool, for agents bound to no session.
    #[must_use]
    pub fn of_pool(self) -> Self {
        Self { session: None, need: Need::Permit, ..self }
    }

    /// The lane of the same session for another need.
    #[must_use]
    pub fn needing(self, need: Need) -> Self {
        Self { need, ..self }
    }
}

#[cfg(test)]
mod tests;
