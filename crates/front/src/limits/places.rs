//! Places for agent sessions, and for calls that outlive their handlers: taken before anything is waited for, given back by drop, so that there are never more
//! sessions, those on their way included, than there may be.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::limits::{gauges::Gauges, per_peer::PeerSeat};

/// The places that are taken.
#[derive(Default)]
pub(crate) struct Places(AtomicUsize);

/// One of them.
pub(crate) struct Place(Arc<Places>);

/// What an agent session holds for as long as it lives: a place in the gateway, and one of its peer's.
pub(crate) struct Seat {
    pub(crate) _place: Place,
    pub(crate) _peer: PeerSeat,
}

/// A place of a call that outlives its handler; given back when it is dropped.
pub(crate) struct Occupied(Arc<Gauges>);

impl Occupied {
    /// Takes a place, if one is free now.
    pub(crate) fn take(gauges: &Arc<Gauges>, limit: usize) -> Option<Self> {
        let more = |held: usize| (held < limit).then_some(held + 1);
        gauges.adopted.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(gauges)))
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        Gauges::down(&self.0.adopted, 1);
    }
}

impl Places {
    /// A place, unless as many are taken as there may be.
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
