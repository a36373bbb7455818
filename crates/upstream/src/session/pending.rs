//! The pending calls of one session. The closed state is part of the map, so nothing can be registered after the close,
//! and the close answers every waiting call exactly once.
//!
//! **An entry owns its call permit.** A cancelled call leaves a zombie entry: the backend is still working on it, so
//! its permit is released only with the response or after `cancel_grace`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpool_wire::{AgentKey, Answer, Call, CallTrace, LinkEvent, Message, Outlet};
use tokio::sync::oneshot;

use crate::{
    error::{Cause, SendError, SendPhase},
    session::permit::CallPermit,
    sync::{ById, Mutex, MutexGuard},
    transport::IDS,
};

/// The next id. 0 is reserved for `initialize`.
fn following(id: u64) -> u64 {
    (id + 1) % IDS + u64::from(id + 1 == IDS)
}

pub(crate) type Outcome = Result<Answer, SendError>;

pub(crate) struct Pending {
    book: Mutex<Book>,
}

enum Book {
    Open { next: u64, calls: ById<Entry> },
    Closed(SendError),
}

struct Entry {
    state: EntryState,
    permit: Option<CallPermit>,
}

enum EntryState {
    Waiting {
        answer: oneshot::Sender<Outcome>,
        owner: Option<Owner>,
    },
    /// `told`: the backend was notified of the cancellation.
    Zombie {
        since: Instant,
        told: bool,
    },
}

/// The caller, who gets the progress.
#[derive(Clone)]
struct Owner {
    agent: AgentKey,
    outlet: Option<Arc<dyn Outlet>>,
    token: Option<Bytes>,
    trace: Arc<CallTrace>,
}

/// A registered request.
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) answer: oneshot::Receiver<Outcome>,
}

/// Result of delivering a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Delivered,
    /// The caller was gone.
    Late,
    /// No such request.
    Unknown,
}

impl Pending {
    /// Starts ids at an arbitrary value below [`IDS`], so that a response for another session matches nothing.
    pub(crate) fn new(first_id: u32) -> Self {
        let next = following(u64::from(first_id) % IDS);
        Self { book: Mutex::new(Book::Open { next, calls: ById::default() }) }
    }

    /// Registers a call; the entry takes its permit.
    pub(crate) fn register(&self, permit: CallPermit, call: &Call) -> Result<Ticket, SendError> {
        let owner = Owner {
            agent: call.caller.agent,
            outlet: call.outlet.clone(),
            token: call.message.token(),
            trace: call.trace.clone(),
        };
        self.insert(Some(permit), Some(owner))
    }

    /// Registers a request of the gateway itself (probe, handshake), which needs no permit.
    pub(crate) fn register_own(&self) -> Result<Ticket, SendError> {
        self.insert(None, None)
    }

    fn insert(&self, permit: Option<CallPermit>, owner: Option<Owner>) -> Result<Ticket, SendError> {
        let (tx, answer) = oneshot::channel();
        let mut book = self.lock();
        match &mut *book {
            Book::Closed(why) => {
                let why = SendError::not_sent(why.cause.clone());
                drop(book);
                // Released outside the lock, as this wakes others.
                drop(permit);
                Err(why)
            }
            Book::Open { next, calls } => {
                // After a wrap-around, long calls may still hold their ids.
                while calls.contains_key(next) {
                    *next = following(*next);
                }
                let id = *next;
                *next = following(id);
                calls.insert(id, Entry { state: EntryState::Waiting { answer: tx, owner }, permit });
                Ok(Ticket { id, answer })
            }
        }
    }

    /// Delivers a response to its caller.
    pub(crate) fn complete(&self, id: u64, outcome: Outcome) -> Delivery {
        let id = if mutant!(AnswerToAnother) { self.another_than(id) } else { id };
        let entry = match &mut *self.lock() {
            Book::Open { calls, .. } => calls.remove(&id),
            Book::Closed(_) => None,
        };
        let Some(entry) = entry else { return Delivery::Unknown };
        let delivered = match entry.state {
            EntryState::Waiting { answer, .. } => answer.send(outcome).is_ok(),
            EntryState::Zombie { .. } => false,
        };
        if mutant!(SlotKeptByCancelled) && !delivered {
            std::mem::forget(entry.permit);
            return Delivery::Late;
        }
        let delivery = if delivered { Delivery::Delivered } else { Delivery::Late };
        drop(entry.permit);
        delivery
    }

    /// Removes a finished call.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let entry = match &mut *self.lock() {
            Book::Open { calls, .. } => calls.remove(&id),
            Book::Closed(_) => None,
        };
        entry.is_some()
    }

    /// Forwards progress to the caller that owns the token, under the caller's own token.
    pub(crate) fn progress(&self, token: u64, message: &Message, now: Instant) -> bool {
        let token = if mutant!(ProgressToAnother) { self.another_than(token) } else { token };
        let owner = match &*self.lock() {
            Book::Open { calls, .. } => match calls.get(&token).map(|entry| &entry.state) {
                Some(EntryState::Waiting { owner: Some(owner), .. }) => owner.clone(),
                _ => return false,
            },
            Book::Closed(_) => return false,
        };
        owner.trace.mark_part(now);
        let (Some(outlet), Some(token)) = (owner.outlet, owner.token) else { return false };
        outlet.push(LinkEvent::Progress(message.with_token(&token))).is_ok()
    }

    /// The agent of a waiting call.
    pub(crate) fn agent_of(&self, id: u64) -> Option<AgentKey> {
        match &*self.lock() {
            Book::Open { calls, .. } => match &calls.get(&id)?.state {
                EntryState::Waiting { owner, .. } => owner.as_ref().map(|owner| owner.agent),
                EntryState::Zombie { .. } => None,
            },
            Book::Closed(_) => None,
        }
    }

    /// Sends an event to the caller of this entry.
    pub(crate) fn push_to(&self, id: u64, event: LinkEvent) -> bool {
        let outlet = match &*self.lock() {
            Book::Open { calls, .. } => match calls.get(&id).map(|entry| &entry.state) {
                Some(EntryState::Waiting { owner: Some(owner), .. }) => owner.outlet.clone(),
                _ => None,
            },
            Book::Closed(_) => None,
        };
        outlet.is_some_and(|outlet| outlet.push(event).is_ok())
    }

    /// Sends an event to any waiting caller that accepts it.
    pub(crate) fn push_to_any(&self, event: &dyn Fn() -> LinkEvent) -> bool {
        let outlets: Vec<Arc<dyn Outlet>> = match &*self.lock() {
            Book::Open { calls, .. } => calls
                .values()
                .filter_map(|entry| match &entry.state {
                    EntryState::Waiting { owner: Some(owner), .. } => owner.outlet.clone(),
                    _ => None,
                })
                .collect(),
            Book::Closed(_) => Vec::new(),
        };
        outlets.iter().any(|outlet| outlet.push(event()).is_ok())
    }

    /// Turns an entry into a zombie, which keeps its permit until the response or the grace time.
    pub(crate) fn abandon(&self, id: u64, now: Instant) -> bool {
        let left = match &mut *self.lock() {
            Book::Open { calls, next } if mutant!(IdUsedAgain) => {
                *next = id;
                calls.remove(&id).map(|entry| entry.state)
            }
            Book::Open { calls, .. } => calls.get_mut(&id).map(|entry| {
                std::mem::replace(&mut entry.state, EntryState::Zombie { since: now, told: false })
            }),
            Book::Closed(_) => None,
        };
        // The caller's parts are dropped outside the lock.
        left.is_some()
    }

    /// Marks a zombie whose cancellation the backend has received.
    pub(crate) fn mark_told(&self, id: u64) {
        if let Book::Open { calls, .. } = &mut *self.lock()
            && let Some(EntryState::Zombie { told, .. }) = calls.get_mut(&id).map(|entry| &mut entry.state)
        {
            *told = true;
        }
    }

    /// Removes zombies older than the grace time; returns their number.
    pub(crate) fn bury(&self, now: Instant, grace: Duration) -> usize {
        let dead: Vec<Entry> = match &mut *self.lock() {
            Book::Open { calls, .. } => {
                let over = |entry: &Entry| match entry.state {
                    EntryState::Zombie { since, .. } => now.saturating_duration_since(since) >= grace,
                    EntryState::Waiting { .. } => false,
                };
                let ids: Vec<u64> = calls.iter().filter(|(_, e)| over(e)).map(|(id, _)| *id).collect();
                ids.iter().filter_map(|id| calls.remove(id)).collect()
            }
            Book::Closed(_) => Vec::new(),
        };
        dead.len()
    }

    /// The number of zombies with a permit, and the start of the oldest zombie.
    pub(crate) fn zombies(&self) -> (usize, Option<Instant>) {
        let mut found = (0, None);
        if let Book::Open { calls, .. } = &*self.lock() {
            for entry in calls.values() {
                let EntryState::Zombie { since, .. } = entry.state else { continue };
                found.0 += usize::from(entry.permit.is_some());
                found.1 = Some(found.1.map_or(since, |oldest: Instant| oldest.min(since)));
            }
        }
        found
    }

    /// Records a sign of life for all waiting calls while the backend sends a response that nothing can overtake.
    pub(crate) fn mark_part(&self, now: Instant) {
        if let Book::Open { calls, .. } = &*self.lock() {
            for entry in calls.values() {
                if let EntryState::Waiting { owner: Some(owner), .. } = &entry.state {
                    owner.trace.mark_part(now);
                }
            }
        }
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        match &*self.lock() {
            Book::Open { calls, .. } => calls.len(),
            Book::Closed(_) => 0,
        }
    }

    /// Closes the map: each waiting call fails once with its execution state. Returns the calls that the backend may
    /// still run without notice of cancellation.
    pub(crate) fn close(&self, cause: &Cause) -> Vec<u64> {
        if mutant!(WaitersForgotten) {
            return Vec::new();
        }
        if mutant!(ClosedInTwoSteps)
            && let Book::Open { calls, .. } = &mut *self.lock()
        {
            calls.clear();
        }
        let closed = Book::Closed(SendError::not_sent(cause.clone()));
        let before = std::mem::replace(&mut *self.lock(), closed);
        let Book::Open { calls, .. } = before else {
            // The first reason is kept.
            *self.lock() = before;
            return Vec::new();
        };
        let mut unanswered = Vec::new();
        for (id, entry) in calls {
            let (answer, owner) = match entry.state {
                EntryState::Waiting { answer, owner } => (answer, owner),
                EntryState::Zombie { told, .. } => {
                    unanswered.extend((!told).then_some(id));
                    continue;
                }
            };
            let is_own = owner.is_none();
            let sent = owner.is_none_or(|owner| owner.trace.phase() != mcpool_wire::Phase::Queued);
            if sent && !is_own {
                unanswered.push(id);
            }
            let phase = if sent { SendPhase::MaybeSent } else { SendPhase::NotSent };
            let _ = answer.send(Err(SendError { phase, cause: cause.clone() }));
        }
        unanswered
    }

    /// A waiting call other than this one, if this one waits.
    fn another_than(&self, id: u64) -> u64 {
        let Book::Open { calls, .. } = &*self.lock() else { return id };
        let waits = |entry: &Entry| matches!(entry.state, EntryState::Waiting { owner: Some(_), .. });
        let other = calls
            .iter()
            .filter(|(other, entry)| **other != id && waits(entry))
            .map(|(other, _)| *other)
            .min();
        other.filter(|_| calls.get(&id).is_some_and(waits)).unwrap_or(id)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_in_thirty_bits_and_begin_anew_past_those_in_use() {
        let pending = Pending::new(u32::MAX);
        let first = pending.register_own().unwrap();
        assert!(first.id > 0 && first.id < IDS, "{}", first.id);

        let last = u32::try_from(IDS - 2).unwrap();
        let pending = Pending::new(last);
        let ids: Vec<_> = (0..3).map(|_| pending.register_own().unwrap().id).collect();
        assert_eq!(ids, [IDS - 1, 1, 2], "0 is that of initialize");
        if let Book::Open { next, .. } = &mut *pending.lock() {
            *next = IDS - 1;
        }
        assert_eq!(pending.register_own().unwrap().id, 3, "the others still wait");
    }
}
