//! The observers' traits: what happens behind the front, as events for metrics and logs.

use std::{sync::Arc, time::Duration};

use mcpool_breaker::{Snapshot, Transition};
use mcpool_upstream::{Observe, Source};

/// Observer of events behind the front.
pub trait GatewayObserve: Observe {
    /// The observer of one backend's stack.
    fn stack(&self, backend: &Source) -> Arc<dyn StackObserve>;

    /// A circuit changed its state.
    fn transition(&self, backend: &Source, transition: &Transition);

    /// A registration of this name was removed or replaced and now finishes its calls; its circuit counts no more.
    fn leaves(&self, _name: &str, _circuit: &Snapshot) {}

    /// The last registration of this name has ended.
    fn gone(&self, _name: &str) {}
}

/// Observer of one backend's calls.
pub trait StackObserve: Send + Sync + 'static {
    /// A call got its permit after this queueing time.
    fn leased(&self, waited: Duration);
    /// A call is sent again. `phase` is the last attempt's: `not_sent`, `refused`, `maybe_sent`.
    fn retried(&self, phase: &'static str);
    /// A call could not queue or stay queued: `full` (call limit), `bytes` (byte limit), `displaced` (by an agent with
    /// fewer calls in the full queue), `timeout`, `circuit_open`. Or it could not be sent again: `retry_budget`.
    fn rejected(&self, reason: &'static str);
}
