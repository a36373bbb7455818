//! The load generator: agents that speak just enough HTTP/1.1 and MCP, and measure what they get.
//!
//! It shares the machine with what it measures, so it is written to cost little: raw HTTP/1.1 on a socket, one
//! buffer per connection, no timer per call. Every call carries a nonce that its answer must bring back.

mod agent;
mod check;
mod conn;
mod histogram;
mod run;
mod sse;

pub use agent::{Agent, Front, Target};
pub use check::{Failure, Work};
pub use conn::{Conn, Framing, Head};
pub use histogram::Histogram;
pub use run::{Drive, Outcome, Plan, Tally, run};
pub(crate) use sse::Cutter;
pub use sse::{Event, Events};

#[cfg(test)]
mod tests;
