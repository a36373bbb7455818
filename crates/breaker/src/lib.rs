//! A circuit breaker that counts incidents instead of calls, and closes after a probe instead of live traffic.
//!
//! [`Circuit`] is a passive value with three states, no clock and no task. [`Breaker`] is the handle that threads
//! share. [`BreakerLayer`] admits or rejects calls; it does not judge responses. The owner reports incidents by epoch
//! (one session's lifetime): a broken transport is one incident, however many calls it carried. In half-open only the
//! owner's single probe passes. After its success, calls return step by step (slow start); each takes a [`Pass`].
//!
//! `Closed` means that calls pass. Epochs must increase over all sessions that one breaker guards.

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
