//! How agents reach the gateway: a hyper server that speaks HTTP+SSE and Streamable HTTP on every agent URL, over
//! any [`mcpool_wire::Backends`].
//!
//! Reading order: `server` and `door` (connections), `http` and `body` (what a request means), `dispatch` and `batch`
//! (Streamable HTTP) with `answer` (its calls), `legacy` and `stream` (HTTP+SSE), `modern` (who has no session), `cors`
//! (pages in a browser), `running` and `adopter` (who owns a call), `unclaimed` and `same` (requests that come again), `call_stream`,
//! `outbox` and `sse_body` (what an agent reads), `weight` (what it may miss), `replay` (what it can fetch again),
//! `seal`, `restore`, `tombstones` and `idle` (sessions that outlive a restart, or give way), `rescue` (errors as responses), `budget`, `rung`
//! and `relief` (what happens when memory is short). The subtle thing: no response body ever runs a call, so an agent
//! that does not read holds up nobody.
//!
//! An agent that does not keep up loses logs first, then all but the latest progress; changes are told once. When twice
//! `outbound_bytes` or `outbound_messages` wait, the next answer closes that stream, as does a connection that takes in
//! nothing for `write_stall`, and the calls of that stream are cancelled. The limit is looked at before a message is
//! queued, so one answer of any size reaches an agent that reads; beyond `replay_bytes` it is not kept for a resume.

mod adopter;
mod agent;
mod agents;
mod answer;
mod batch;
mod body;
mod budget;
mod call_stream;
mod carried;
mod census;
mod common;
mod config;
mod cors;
mod dispatch;
mod door;
mod front;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gauges;
mod hosts;
mod http;
mod idle;
mod incoming;
mod info;
mod legacy;
mod modern;
mod observe;
mod opening;
mod outbox;
mod peer_watch;
mod pieces;
mod places;
mod principals;
mod pulse;
mod relief;
mod replay;
mod rescue;
mod restore;
mod route;
mod rung;
mod running;
mod same;
mod seal;
mod server;
mod session_id;
mod sse_body;
mod stream;
mod tombstone_file;
mod tombstones;
mod unclaimed;
mod unharmed;
mod wall;
mod weight;

pub use census::{Census, CensusQuery, ClientName};
pub use config::{FrontConfig, FrontLimits, FrontTimes, SessionsConfig, Unauthenticated};
pub use gauges::{Gauges, LimitUse, Strain};
pub use hosts::{HostPolicy, TurnedAway, check_allowed_host, check_allowed_origin, host_of};
pub use observe::{
    AgentEnd, CallEnd, Cause, FrontEvent, FrontObserve, Health, Outcome, Parking, REFUSALS, Readiness,
    Restore, SHED, Transport,
};
pub use route::RESERVED;
pub use rung::Rung;
pub use seal::{SessionKey, SessionKeys, warm_up};
pub use server::{Drained, FrontSettings, Server};
pub use session_id::AgentSessionId;
pub use wall::WallClock;
