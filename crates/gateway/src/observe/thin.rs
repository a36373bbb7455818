//! Rate limit for log lines that many agents, or one in a loop, could write by the thousand. Suppressed lines are
//! counted; the next line of the kind reports the count, or a line of its own when no next one comes.
//!
//! Two limits apply: lines per kind within [`WHILE`], and lines of all kinds within a second.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Rate-limited lines by kind.
pub(super) struct Thinned<K> {
    state: Mutex<State<K>>,
    /// Limit of lines per kind within [`WHILE`].
    each: u32,
    /// Limit of lines of all kinds within a second.
    all: f64,
}

struct State<K> {
    kinds: HashMap<K, Kind>,
    /// Lines allowed now.
    tokens: f64,
    filled: Option<Instant>,
}

struct Kind {
    since: Instant,
    said: u32,
    unsaid: u64,
}

/// Window of the limit per kind.
pub(super) const WHILE: Duration = Duration::from_secs(60);
/// Maximum number of kinds; further ones are suppressed and counted under `rest`.
const MOST: usize = 4_096;
/// Burst, in seconds of the limit of all kinds.
const BURST: f64 = 4.0;

impl<K: Eq + Hash + Clone> Thinned<K> {
    pub(super) fn new(each: u32, all: u32) -> Self {
        let all = f64::from(all);
        let state = State { kinds: HashMap::new(), tokens: all * BURST, filled: None };
        Self { state: Mutex::new(state), each, all }
    }

    /// `Some(suppressed)` if this line is to be logged, with the number of suppressed lines of its kind. `rest` is the
    /// kind for lines beyond the maximum number of kinds.
    pub(super) fn admit(&self, kind: K, rest: K, now: Instant) -> Option<u64> {
        let mut state = self.lock();
        if state.kinds.len() >= MOST && !state.kinds.contains_key(&kind) {
            state.kinds.retain(|_, one| one.unsaid > 0 || now.saturating_duration_since(one.since) < WHILE);
        }
        let is_full = state.kinds.len() >= MOST && !state.kinds.contains_key(&kind);
        let has_token = state.refill(now, self.all);
        let kind = state.kinds.entry(if is_full { rest } else { kind }).or_insert(Kind::new(now));
        if kind.unsaid == 0 && now.saturating_duration_since(kind.since) >= WHILE {
            *kind = Kind::new(now);
        }
        let may = now.saturating_duration_since(kind.since) >= WHILE || kind.said < self.each;
        if !may || !has_token {
            kind.unsaid += 1;
            return None;
        }
        let unsaid = std::mem::take(&mut kind.unsaid);
        if now.saturating_duration_since(kind.since) >= WHILE {
            *kind = Kind::new(now);
        }
        kind.said += 1;
        state.tokens -= 1.0;
        Some(unsaid)
    }

    /// Suppressed counts of kinds whose window is over.
    pub(super) fn left_over(&self, now: Instant) -> Vec<(K, u64)> {
        let mut state = self.lock();
        let mut left = Vec::new();
        state.kinds.retain(|kind, one| {
            let is_over = now.saturating_duration_since(one.since) >= WHILE;
            if is_over && one.unsaid > 0 {
                left.push((kind.clone(), one.unsaid));
            }
            !is_over
        });
        left
    }

    // The state is consistent between any two statements, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> State<K> {
    fn refill(&mut self, now: Instant, all: f64) -> bool {
        let since = self.filled.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.tokens = (self.tokens + since.as_secs_f64() * all).min(all * BURST);
        self.tokens >= 1.0
    }
}

impl Kind {
    fn new(since: Instant) -> Self {
        Self { since, said: 0, unsaid: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn some_of_a_kind_are_said_and_the_rest_is_counted() {
        let (thinned, start) = (Thinned::new(3, 1_000), Instant::now());
        let said = |kind, seconds| thinned.admit(kind, 0, at(start, seconds));
        let first: Vec<_> = (0..10).map(|_| said(1, 0)).collect();
        assert_eq!(first.iter().flatten().count(), 3);
        assert_eq!(said(2, 0), Some(0), "another kind is said at once");
        assert_eq!(said(1, 61), Some(7));
        assert_eq!(said(1, 61), Some(0));
    }

    #[test]
    fn the_lines_of_all_kinds_are_bounded_within_a_second() {
        let (thinned, start) = (Thinned::new(10, 50), Instant::now());
        let said = (0..100_000).filter(|kind| thinned.admit(*kind, 0, start).is_some()).count();
        assert_eq!(said, 200);
        assert!(thinned.lock().kinds.len() <= MOST + 1);
        let later = (0..100_000).filter(|kind| thinned.admit(*kind, 0, at(start, 1)).is_some()).count();
        assert_eq!(later, 50);
    }

    #[test]
    fn a_count_is_said_by_itself_when_no_line_follows() {
        let (thinned, start) = (Thinned::new(1, 50), Instant::now());
        assert_eq!((0..5).filter_map(|_| thinned.admit("x", "", start)).count(), 1);
        assert_eq!(thinned.left_over(at(start, 30)), []);
        assert_eq!(thinned.left_over(at(start, 61)), [("x", 4)]);
        assert_eq!(thinned.left_over(at(start, 99)), []);
    }
}
