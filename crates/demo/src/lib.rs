//! The bundled demo server and an agent that talks to servers: what `mcpool` serves when no backend is configured, and
//! with what `doctor` and `rehearse` call.
//!
//! The subtle thing: both are also the scriptable peers of all tests and benchmarks (`mcpool-testkit` re-exports them),
//! so the server has faults and dialects that a script switches on. Everything is bounded and must survive hostile
//! input like any product code. The crate depends on no other crate of the workspace, so that a fault in our codec
//! cannot hide itself in its own tests.

pub mod agent;
pub mod script;
pub mod server;

pub use agent::{Agent, AgentConfig, AgentError, Ids, RawAnswer, Started, Transport};
pub use script::{
    Answer, CancelAnswer, Fault, FaultKind, IdDialect, Lane, Lost, PingKiller, Prime, Script, Stage,
};
pub use server::{Recorded, Server, StatsSnapshot};
