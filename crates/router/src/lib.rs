//! The path of a call behind the front: the registered backends, each agent's link to one of them, and the layers a
//! call goes through before it reaches a session.
//!
//! Reading order: `gateway` (starts backends, applies a changed set, feeds the circuit), `route` (from a URL to a
//! backend), `link` (an agent's tie to a backend), `stack` (the layers of one call), `verbs` (what an operator orders), `retire` (registrations that end).
//! The subtle thing: the set of backends is one snapshot, replaced as a whole, so no call ever sees half a change.

pub mod gateway;
mod link;
mod retire;
pub mod route;
pub mod stack;
mod text;
pub mod verbs;

pub use text::count;
