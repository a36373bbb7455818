//! Places for agent sessions and for detached calls. A place is taken before anything is awaited and released on drop,
//! so sessions that are still being opened count, too.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::limits::{gauges::Gauges, per_peer::PeerPermit};

/// Counts the agent sessions of the gateway.
#[derive(Default)]
pub(crate) struct Places(AtomicUsize);

/// One agent session in the count; released on drop.
pub(crate) struct Place(Arc<Places>);

/// The right of one agent session to exist: a place in the gateway and a permit of its peer.
pub(crate) struct SessionPermit {
    pub(crate) _place: Place,
    pub(crate) _peer: PeerPermit,
}

/// The right of one entry of detached calls to exist; released on drop.
pub(crate) struct DetachedPermit(Arc<Gauges>);

impl DetachedPermit {
    /// Takes a permit; `None` if all are taken.
    pub(crate) fn take(gauges: &Arc<Gauges>, limit: usize) -> Option<Self> {
        let more = |held: usize| (held < limit).then_some(held + 1);
        gauges.adopted.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(gauges)))
    }
}

impl Drop for DetachedPermit {
    fn drop(&mut self) {
        Gauges::down(&self.0.adopted, 1);
    }
}

impl Places {
    /// Takes a place; `None` if `limit` are taken.
    pub(crate) fn take(self: &Arc<Self>, limit: usize) -> Option<Place> {
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_given_back_is_there_for_the_next() {
        let places = Arc::new(Places::default());
        let (first, second) = (places.take(2), places.take(2));
        assert!(first.is_some() && second.is_some() && places.take(2).is_none());
        drop(first);
        let third = places.take(2);
        assert!(third.is_some() && places.take(2).is_none() && places.take(3).is_some());
    }
}
