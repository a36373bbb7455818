//! The call path behind the front: registered backends, each agent's link to one of them, and the layers of a call.
//!
//! Reading order: `settings` (what a backend is configured to be), `registry` (the registered backends), `gateway`
//! (starts backends, applies a new configuration), `sources` (who configures which backends), `breaker_feed` (events for
//! the circuit breaker), `route` (from a URL to a backend), `link` (an agent's link to a backend), `stack` (the layers of
//! one call), `verbs` (admin actions), `retire` (backends that were removed or replaced), `events` (for metrics and
//! logs). The set of backends is one snapshot, replaced as a whole, so that no call ever sees half a change.

mod breaker_feed;
pub mod events;
pub mod gateway;
mod link;
pub mod registry;
mod retire;
pub mod route;
pub mod settings;
mod sources;
pub mod stack;
mod state;
mod text;
pub mod verbs;

pub use text::count;
