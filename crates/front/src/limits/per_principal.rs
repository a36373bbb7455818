//! Limits per principal: calls in flight over all its agent sessions and backends, and an estimate of when the next one
//! ends.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcpool_wire::{Caller, Identity};

/// Counts calls in flight per principal, up to a limit.
pub(crate) struct Principals {
    limit: usize,
    calls: Mutex<HashMap<Arc<Identity>, usize>>,
    /// The recent mean length of a call, in nanoseconds.
    length: AtomicU64,
}

/// One call in the count; released on drop.
pub(crate) struct Share {
    of: Arc<Principals>,
    principal: Arc<Identity>,
}

/// The principal is at its limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany(pub(crate) usize);

impl Principals {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, calls: Mutex::default(), length: AtomicU64::new(0) })
    }

    /// Counts one more call. Anonymous agents on this machine are exempt: they are not one user but all its programs.
    pub(crate) fn take(self: &Arc<Self>, caller: &Caller) -> Result<Option<Share>, TooMany> {
        if caller.is_local && caller.identity.is_anonymous() {
            return Ok(None);
        }
        let mut all = self.lock();
        let calls = all.entry(Arc::clone(&caller.identity)).or_default();
        if *calls >= self.limit {
            return Err(TooMany(self.limit));
        }
        *calls += 1;
        Ok(Some(Share { of: Arc::clone(self), principal: Arc::clone(&caller.identity) }))
    }

    /// Notes the length of a call that ended.
    pub(crate) fn ended(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX / WEIGHT);
        // Two calls that end at once may overwrite each other: it is only a mean.
        let before = self.length.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { before - before / WEIGHT + took / WEIGHT };
        self.length.store(mean, Ordering::Relaxed);
    }

    /// The expected time until one of this many calls ends.
    pub(crate) fn next_end(&self, in_flight: usize) -> Duration {
        let mean = match self.length.load(Ordering::Relaxed) {
            0 => UNKNOWN,
            nanos => Duration::from_nanos(nanos),
        };
        let each = u32::try_from(in_flight.max(1)).unwrap_or(u32::MAX);
        (mean / each).clamp(SHORTEST, LONGEST)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<Identity>, usize>> {
        // Consistent between any two statements.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        let Some(calls) = all.get_mut(&self.principal) else { return };
        *calls -= 1;
        if *calls == 0 {
            all.remove(&self.principal);
        }
    }
}

/// The weight of one call in the mean: an eighth.
const WEIGHT: u64 = 8;
/// The assumed length before a call has ended.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Bounds of the time given to agents.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use mcpool_wire::{AgentKey, IdentityKind};

    use super::*;

    fn caller(identity: Arc<Identity>, is_local: bool) -> Caller {
        Caller { identity, is_local, agent: AgentKey(1), affinity: None, forwarded: Arc::default() }
    }

    #[test]
    fn a_principal_has_its_limit_wherever_it_is_and_others_have_theirs() {
        let principals = Principals::new(2);
        let [ada, bob] = ["ada", "bob"].map(|name| Arc::new(Identity::new(IdentityKind::Key, name)));
        let first = principals.take(&caller(ada.clone(), true)).unwrap();
        let second = principals.take(&caller(ada.clone(), false)).unwrap();
        assert_eq!(principals.take(&caller(ada.clone(), true)).err(), Some(TooMany(2)));
        assert!(principals.take(&caller(bob, true)).unwrap().is_some());
        drop(first);
        assert!(principals.take(&caller(ada, true)).unwrap().is_some());
        drop(second);
        assert!(principals.lock().is_empty(), "nothing is kept of who has no calls");
    }

    #[test]
    fn agents_of_this_machine_without_a_name_are_not_counted_others_are() {
        let principals = Principals::new(1);
        for _ in 0..10 {
            std::mem::forget(principals.take(&caller(Identity::anonymous(), true)).unwrap());
        }
        let far = principals.take(&caller(Identity::anonymous(), false)).unwrap();
        assert_eq!(principals.take(&caller(Identity::anonymous(), false)).err(), Some(TooMany(1)));
        assert!(principals.take(&caller(Identity::anonymous(), true)).unwrap().is_none());
        drop(far);
    }

    #[test]
    fn the_next_end_is_told_from_how_long_calls_take() {
        let principals = Principals::new(1);
        assert_eq!(principals.next_end(1), Duration::from_secs(1));
        (0..100).for_each(|_| principals.ended(Duration::from_secs(8)));
        let told = principals.next_end(64);
        assert!((110..140).contains(&told.as_millis()), "{told:?}");
        (0..100).for_each(|_| principals.ended(Duration::from_millis(1)));
        assert_eq!(principals.next_end(64), SHORTEST);
    }
}
