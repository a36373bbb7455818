//! Who holds the sessions: pooled, shared, probed sessions of one backend, over a [`transport::Transport`].
//!
//! Reading order: `config`, [`transport`], `session` (one conversation), `pool` and `queue` (which call gets which
//! session when), `shared` (what the agents of a pool share), `connector` (opening sessions and upkeep), [`Backend`]
//! (all of it for one server).

#[macro_use]
mod mutants;

mod backend;
mod catalog;
mod clock;
mod config;
mod connector;
mod credential;
pub mod descriptors;
mod early_ends;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod kinds;
mod observe;
mod offload;
mod pool;
mod queue;
mod quirks;
mod session;
mod shared;
mod sync;
mod tasks;
pub mod transport;

pub use backend::traffic::TrafficState;
pub use backend::{
    Activity, Applicant, Backend, BackendStatus, Gate, Leaving, ListCall, Opening, Rebuild, unknown_cursor,
};
pub use catalog::Page;
pub use config::{
    BackendSpec, Endpoint, EraChoice, HttpEndpoint, Limits, ModeChoice, Origin, Profile, Resolve, Resolver,
    SerialWrites, Sharing, StateChoice, StdioEndpoint, Times, TransportChoice,
};
pub use credential::{Credential, CredentialKey, Presented, StaticHeaders};
pub use error::{Cause, Refusal, SendError, SendPhase};
pub use kinds::{CloseReason, Evidence, Mode, ModeReason, OpenReason, TransportKind};
#[cfg(feature = "seeded-bugs")]
#[doc(hidden)]
pub use mutants::{Bug, Planted};
pub use observe::{DROPPED_KINDS, Event, Observe, Reporter, Source};
pub use pool::plight::Trouble;
pub use pool::sharing::{Decision, Demotion};
pub use pool::{Binding, Lease, NoLease};
pub use queue::{Displaced, Entry, Lane, Need, Queue, QueueFull, QueueLimit, QueueLimits, Waiter, Waiting};
pub use session::SessionStatus;
#[cfg(feature = "interleave")]
#[doc(hidden)]
pub use session::interleave;
pub use session::permit::CallKind;
pub use shared::ListFlight;
pub use tasks::Tasks;
pub use transport::dns::UNRESOLVED;
