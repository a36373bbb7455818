//! List requests under way: who wants the same first page at the same time waits for one request.
//!
//! The request is a shared future that whoever still waits drives; when the one that began it leaves, the others
//! carry it on, and when the last one leaves, it is cancelled upstream.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use futures::{
    FutureExt as _,
    future::{Shared, WeakShared},
};
use mcpool_wire::{CallError, Method, Reply};

use crate::catalog::{Page, lists_of};

/// A list request in progress.
pub type ListFlight = Shared<Reply<Page>>;

/// The list requests in progress of one pool, at most one per kind of list.
#[derive(Default)]
pub(crate) struct ListFlights(Mutex<HashMap<&'static str, WeakShared<Reply<Page>>>>);

impl ListFlights {
    /// Returns the request in progress, or a new one, and whether it is new.
    pub(crate) fn join(&self, method: &Method, begin: impl FnOnce() -> Reply<Page>) -> (ListFlight, bool) {
        let mut flights = self.lock();
        let under_way = flights.get(method.label()).and_then(WeakShared::upgrade);
        if let Some(flight) = under_way.filter(|flight| flight.peek().is_none()) {
            return (flight, false);
        }
        let flight = begin().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(method.label(), weak);
        }
        (flight, true)
    }

    /// Forgets a request sent before a list changed: it does not serve later agents.
    pub(crate) fn forget(&self, changed: &Method) {
        let mut flights = self.lock();
        for method in lists_of(changed) {
            flights.remove(method.label());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, WeakShared<Reply<Page>>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// True if a list request failed only by the time limit of the agent that began it.
#[must_use]
pub(crate) fn ran_out_of_time(error: &CallError) -> bool {
    use mcpool_wire::ErrorKind;
    matches!(error.kind, ErrorKind::Deadline | ErrorKind::QueueTimeout)
}
