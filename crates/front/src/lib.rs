//! How agents reach the gateway: a hyper server that speaks HTTP+SSE and Streamable HTTP on every agent URL, over
//! any [`mcpool_wire::Backends`].
//!
//! Reading order: `server` (connections), `http` (what a request means), `dispatch` (Streamable HTTP), `legacy` and
//! `stream` (HTTP+SSE), `running` and `adopter` (who owns a call), `outbox` and `sse_body` (what an agent reads),
//! `rescue` (errors as responses). The subtle thing: no response body ever runs a call, so an agent that does not
//! read holds up nobody.

mod adopter;
mod agent;
mod agents;
mod common;
mod config;
mod dispatch;
mod front;
mod hosts;
mod http;
mod incoming;
mod info;
mod legacy;
mod observe;
mod opening;
mod outbox;
mod pulse;
mod rescue;
mod route;
mod running;
mod server;
mod session_id;
mod sse_body;
mod stream;

pub use config::{FrontConfig, FrontLimits, FrontTimes, Unauthenticated};
pub use hosts::{HostPolicy, TurnedAway};
pub use observe::{
    AgentEnd, CallEnd, Cause, FrontEvent, FrontObserve, Gauges, Health, Outcome, Readiness, Transport,
};
pub use route::RESERVED;
pub use server::{Drained, Server};
pub use session_id::AgentSessionId;
