//! The session budget of a backend.
//!
//! A deadpool object is one *place* in the budget, not a session: deadpool lends an object to one holder, while a session
//! is shared. A session holds its place for as long as it lives. Nothing else names deadpool.

use std::{convert::Infallible, time::Duration};

use deadpool::managed::{self, Metrics, RecycleResult, Timeouts};

/// The session budget of one backend.
pub(crate) struct Budget {
    places: managed::Pool<Places>,
    limit: usize,
}

/// A place in the budget; a session holds one for as long as it lives.
pub(crate) struct Place(#[allow(dead_code, reason = "held, given back by drop")] managed::Object<Places>);

struct Places;

impl managed::Manager for Places {
    type Type = ();
    type Error = Infallible;

    async fn create(&self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn recycle(&self, (): &mut (), _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Result<Self, String> {
        let places = managed::Pool::builder(Places)
            .max_size(limit)
            .build()
            .map_err(|e| format!("the session budget cannot be built: {e}"))?;
        Ok(Self { places, limit })
    }

    /// Takes a place if one is free. Waiting is done in the queue.
    pub(crate) async fn take(&self) -> Option<Place> {
        let now = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
        self.places.timeout_get(&now).await.ok().map(Place)
    }

    /// Places taken and places there are.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let status = self.places.status();
        (status.size.saturating_sub(status.available), self.limit)
    }
}
