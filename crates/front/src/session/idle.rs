//! Idle agent sessions: finds the one that was idle longest, to be evicted, without a look at all of them.
//!
//! A heap orders the sessions by their last use at the time of insertion. An outdated entry is corrected when it
//! reaches the top, so a request costs nothing here, and an entry moves at most once per use of its session. Sessions
//! that cannot be evicted at the moment (a call runs, a stream is open) are set aside and checked again after a pause,
//! so that many of them do not slow down every newcomer.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Milliseconds between two checks of those set aside.
const AGAIN: u64 = 250;
/// Entries of ended sessions are removed when there are this many more entries than sessions.
const SLACK: usize = 64;

/// The use of a session at this moment.
pub(crate) enum Use {
    /// It has ended.
    Over,
    /// It cannot be evicted now.
    Busy,
    /// It has been idle since this millisecond.
    Idle(u64),
}

/// The sessions that may be evicted.
pub(crate) struct IdleSessions<I>(Mutex<Order<I>>);

struct Order<I> {
    heap: BinaryHeap<Reverse<(u64, u64, I)>>,
    aside: Vec<(u64, u64, I)>,
    looked: u64,
}

impl<I: Ord> Default for IdleSessions<I> {
    fn default() -> Self {
        Self(Mutex::new(Order { heap: BinaryHeap::new(), aside: Vec::new(), looked: 0 }))
    }
}

impl<I: Copy + Ord> IdleSessions<I> {
    /// Adds a session: since when it is idle, a number that orders those of the same millisecond, and its name. `live`
    /// is the number of sessions.
    pub(crate) fn add(&self, entry: (u64, u64, I), live: usize, of: impl Fn(&I) -> Use) {
        self.lock().add(entry, live, &of);
    }

    /// Removes the session that was idle longest. Returns it with the time since which it is idle.
    pub(crate) fn longest(&self, now: u64, of: impl Fn(&I) -> Use) -> Option<(I, u64)> {
        self.lock().longest(now, &of)
    }

    // Consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Order<I>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Copy + Ord> Order<I> {
    fn add(&mut self, entry: (u64, u64, I), live: usize, of: &impl Fn(&I) -> Use) {
        if self.heap.len() + self.aside.len() > 2 * live + SLACK {
            self.compact(of);
        }
        self.heap.push(Reverse(entry));
    }

    fn compact(&mut self, of: &impl Fn(&I) -> Use) {
        let lives = |id: &I| !matches!(of(id), Use::Over);
        self.heap.retain(|Reverse((_, _, id))| lives(id));
        self.aside.retain(|(_, _, id)| lives(id));
    }

    fn longest(&mut self, now: u64, of: &impl Fn(&I) -> Use) -> Option<(I, u64)> {
        if now.saturating_sub(self.looked) >= AGAIN {
            self.looked = now;
            self.heap.extend(self.aside.drain(..).map(Reverse));
        }
        while let Some(Reverse((seen, number, id))) = self.heap.pop() {
            match of(&id) {
                Use::Over => {}
                Use::Busy => self.aside.push((seen, number, id)),
                Use::Idle(since) if since > seen => self.heap.push(Reverse((since, number, id))),
                Use::Idle(since) => return Some((id, since)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::HashMap,
    };

    use super::*;

    #[test]
    fn the_longest_idle_one_is_found_whatever_was_used_meanwhile() {
        let idle = IdleSessions::default();
        let seen = RefCell::new(HashMap::from([(1, 0), (2, 0), (3, 0)]));
        let of = |id: &u32| seen.borrow().get(id).map_or(Use::Over, |at| Use::Idle(*at));
        (1..=3).for_each(|id| idle.add((0, u64::from(id), id), 3, of));
        seen.borrow_mut().extend([(1, 9), (2, 7)]);
        assert_eq!(idle.longest(10, of), Some((3, 0)));
        assert_eq!(idle.longest(10, of), Some((2, 7)));
        seen.borrow_mut().remove(&1);
        assert_eq!(idle.longest(10, of), None);
    }

    #[test]
    fn those_that_are_busy_are_set_aside_and_come_back() {
        let idle = IdleSessions::default();
        let (busy, looks) = (Cell::new(true), Cell::new(0));
        let of = |_: &u32| {
            looks.set(looks.get() + 1);
            if busy.get() { Use::Busy } else { Use::Idle(0) }
        };
        (0..1_000).for_each(|id| idle.add((0, u64::from(id), id), 1_000, of));
        (0..1_000).for_each(|_| assert_eq!(idle.longest(1_000, of), None));
        assert_eq!(looks.get(), 1_000, "each is looked at once, not once for each newcomer");
        busy.set(false);
        assert_eq!(idle.longest(1_000 + AGAIN, of), Some((0, 0)));
    }

    #[test]
    fn sessions_that_ended_are_not_kept() {
        let idle = IdleSessions::default();
        let over = |_: &u32| Use::Over;
        (0..10_000).for_each(|id| idle.add((0, u64::from(id), id), 1, over));
        assert!(idle.lock().heap.len() <= 2 * SLACK);
    }
}
