//! The call path behind the front: registered backends, each agent's link to one of them, and the layers of a call.
//!
//! Reading order: `gateway` (starts backends, applies a new configuration, feeds the circuit breaker), `route` (from a
//! URL to a backend), `link` (an agent's link to a backend), `stack` (the layers of one call), `verbs` (admin actions),
//! `retire` (backends that were removed or replaced). The set of backends is one snapshot, replaced as a whole, so no
//! call ever sees half a change.

pub mod gateway;
mod link;
mod retire;
pub mod route;
pub mod stack;
mod text;
pub mod verbs;

pub use text::count;
