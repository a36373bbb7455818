//! Who holds the sessions: pooled, shared, probed sessions of one backend, over a [`transport::Transport`].
//!
//! Reading order: [`config`], [`transport`], `session` (one conversation), `pool` and `room` (who gets which
//! session when), [`Backend`] (all of it for one server).

mod config;
mod error;
mod observe;
pub mod transport;

pub use config::{BackendSpec, HttpEndpoint, Limits, ModeChoice, Origin, Times, TransportChoice};
pub use error::{Cause, Refusal, SendError, SendPhase};
pub use observe::{CloseReason, Event, Mode, Observe, OpenReason, Source};
