//! A circuit breaker that counts incidents, not calls, and is closed again by a probe, not by traffic.
//!
//! [`Circuit`] is a passive value: three states, no clock, no task. [`Breaker`] is the handle that threads share.
//! [`BreakerLayer`] puts it into a call path, where it admits or refuses and judges no answer. What breaks is told
//! from outside, keyed by epoch (one life of a session): one broken transport is one incident, however many calls
//! it carried. In half-open nothing passes but the owner's own probe, and there is never more than one of it. After
//! it succeeded calls come back step by step: each that begins takes a [`Pass`].
//!
//! `Closed` means that traffic flows. Epochs must grow over all sessions of what the breaker guards.

mod circuit;
mod handle;
mod layer;
mod policy;
mod tally;

pub use circuit::{Circuit, Opening, Rejected, SlowStartShown};
pub use handle::{Breaker, Pass};
pub use layer::{BreakerFuture, BreakerLayer, BreakerService};
pub use policy::{ConsecutiveFailures, Policy, Settings};
pub use tally::{ProbeOutcome, Reason, Snapshot, State, Transition};
