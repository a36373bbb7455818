//! Who holds the sessions: pooled, shared, probed sessions of one backend, over a [`transport::Transport`].
//!
//! Reading order: `config`, [`transport`], `session` (one conversation), `pool` and `room` (who gets which
//! session when), `merged` (what the agents of a pool share), [`Backend`] (all of it for one server).

#[macro_use]
mod seeded;

mod aside;
mod backend;
mod catalog;
mod clock;
mod config;
pub mod descriptors;
mod early_ends;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod loan;
mod merged;
mod mode;
mod observe;
mod opener;
mod pool;
mod quirks;
mod room;
mod session;
mod slot;
mod sync;
mod tasks;
pub mod transport;
mod valve;

pub use backend::{
    Activity, Applicant, Backend, BackendStatus, Gate, Leaving, ListCall, Opening, Rebuild, SessionStatus,
    Trouble, unknown_cursor,
};
pub use config::{
    BackendSpec, Endpoint, EraChoice, HttpEndpoint, Limits, ModeChoice, Origin, SerialWrites, Sharing,
    StateChoice, StdioEndpoint, Times, TransportChoice,
};
pub use error::{Cause, Refusal, SendError, SendPhase};
pub use merged::{ListFlight, Page};
pub use mode::{Decision, Demotion, Evidence, ModeReason, Profile};
pub use observe::{CloseReason, DROPPED_KINDS, Event, Mode, Observe, OpenReason, Reporter, Source};
pub use pool::{Lease, NoLease, Seat};
pub use room::{Displaced, Guest, Lane, Need, Room, RoomFull, RoomLimit, RoomLimits, Waiter, Waiting};
#[cfg(feature = "seeded-bugs")]
#[doc(hidden)]
pub use seeded::{Bug, Planted};
#[cfg(feature = "interleave")]
#[doc(hidden)]
pub use session::interleave;
pub use slot::CallKind;
pub use tasks::Tasks;
pub use transport::names::UNRESOLVED;
pub use valve::Traffic;
