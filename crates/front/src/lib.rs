//! The front: a hyper server that speaks HTTP+SSE and Streamable HTTP to agents on every agent URL, over any
//! [`mcpool_wire::Backends`].
//!
//! Reading order, top to bottom: `server` (connections), `endpoint` (what a request means), the three transports
//! `streamable`, `sse` and `stateless`, `call` (calls in flight and their owners), `session` (agent sessions), `http`
//! (reading requests, writing responses), `shared` (what all of it shares), `stream` (what an agent reads), `limits`,
//! `session_id` (sealed ids), `observe`. The subtle thing: no response body ever runs a call, so an agent that does not
//! read holds up nobody.
//!
//! An agent that does not keep up loses logs first, then all but the latest progress; change notices are merged. When
//! twice `outbound_bytes` or `outbound_messages` wait, the next answer closes that stream, as does a connection that
//! takes nothing for `write_stall`, and the calls of that stream are cancelled. The limit is checked before a message
//! is queued, so one answer of any size reaches an agent that reads; beyond `replay_bytes` it is not stored for a
//! resume.

mod call;
mod config;
mod endpoint;
mod forwarded_headers;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod host_policy;
mod http;
mod limits;
mod message;
mod observe;
mod panics;
mod server;
mod session;
mod session_id;
mod shared;
mod sse;
mod stateless;
mod stream;
mod streamable;

pub use config::{FrontConfig, FrontLimits, FrontTimes, SessionsConfig, Unauthenticated};
pub use endpoint::route::RESERVED;
pub use guard::{AllowAll, Guard, GuardedRequest, Refusal, Verdict};
pub use host_policy::{HostPolicy, TurnedAway, check_allowed_host, check_allowed_origin, host_of};
pub use limits::gauges::{Gauges, LimitUse, Strain};
pub use limits::pressure::PressureLevel;
pub use observe::{
    AgentEnd, CallEnd, Cause, ClientName, FrontEvent, FrontObserve, Health, Outcome, Parking, REFUSALS,
    Readiness, Restore, SHED, Transport,
};
pub use server::{Drained, FrontSettings, Server};
pub use session::census::{Census, CensusQuery};
pub use session_id::AgentSessionId;
pub use session_id::age::WallClock;
pub use session_id::seal::{SessionKey, SessionKeys, warm_up};
