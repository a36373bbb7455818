//! A scriptable MCP backend, a scriptable agent, and a bad network to put between: bytes in, bytes out, over loopback
//! sockets.
//!
//! The subtle thing: [`Server`] is also the product's bundled demo backend and the fast backend of the
//! benchmarks, so it is bounded and must survive hostile input like any product code. It depends on no
//! other crate of the workspace, so that a fault in our codec cannot hide itself in its own tests. [`fixture`] is a
//! server of its own: not scriptable, but with everything the conformance suites ask for, in all revisions; [`suite`] is
//! the other end of them, the gateway as a client.

pub mod agent;
pub mod fault_proxy;
pub mod fixture;
pub mod script;
pub mod server;
pub mod suite;

pub use agent::{Agent, AgentConfig, AgentError, Ids, RawAnswer, Started, Transport};
pub use fault_proxy::FaultProxy;
pub use script::{
    Answer, CancelAnswer, Fault, FaultKind, IdDialect, Lane, Lost, PingKiller, Prime, Script, Stage,
};
pub use server::{Recorded, Server, StatsSnapshot};
