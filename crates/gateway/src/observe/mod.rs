//! The observer of all events: counts them (`metrics`) and logs them (`log`).
//!
//! It runs inline on the call path, so it must not block; `status` provides snapshots on demand.

mod backend;
mod backend_gauges;
mod connect_check;
mod events;
mod families;
mod fractions;
mod log;
mod metrics;
mod process;
mod status;
mod text;
mod thin;

use std::sync::Arc;

use mcpool_breaker::{Snapshot, Transition};
use mcpool_front::{FrontEvent, FrontObserve};
use mcpool_upstream::{Event, Observe, Source};

pub(crate) use self::connect_check::{Connected, Failed, Step, connect};
use self::log::Log;
pub use self::{
    connect_check::check_connections,
    events::Events,
    metrics::Metrics,
    process::{descriptors, max_descriptors},
    status::{FolderNote, Phase, Status},
};
use mcpool_router::events::{GatewayObserve, StackObserve};

/// Counts and logs.
pub struct Observer {
    metrics: Arc<Metrics>,
    log: Log,
    events: Arc<Events>,
}

impl Observer {
    /// Creates an observer that counts into these metrics.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, log: Log::default(), events: Arc::default() }
    }

    /// Recent events.
    #[must_use]
    pub fn events(&self) -> Arc<Events> {
        self.events.clone()
    }
}

impl Observe for Observer {
    fn on(&self, backend: &Source, event: Event<'_>) {
        match &event {
            // Counted globally.
            Event::Dropped { kind } => self.metrics.dropped(kind),
            Event::Panicked { task, .. } => self.metrics.panicked(task),
            // The backend's metrics exist from before its start until after its end.
            other => {
                if let Some(metrics) = self.metrics.backend(&backend.name) {
                    metrics.event(other);
                }
            }
        }
        self.log.backend(backend, &event);
        self.events.backend(&backend.name, &event);
    }
}

impl GatewayObserve for Observer {
    fn stack(&self, backend: &Source) -> Arc<dyn StackObserve> {
        self.metrics.register(&backend.name)
    }

    fn transition(&self, backend: &Source, transition: &Transition) {
        Log::transition(backend, transition);
        self.events.transition(&backend.name, transition);
    }

    fn leaves(&self, name: &str, circuit: &Snapshot) {
        if let Some(metrics) = self.metrics.backend(name) {
            metrics.carry(circuit);
        }
    }

    fn gone(&self, name: &str) {
        self.metrics.forget(name);
        self.log.forget(name);
    }
}

impl FrontObserve for Observer {
    fn on(&self, event: &FrontEvent<'_>) {
        self.metrics.front(event);
        self.log.front(event);
    }
}
