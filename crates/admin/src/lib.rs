//! The admin listener: metrics, health, backends, sessions, agents and configuration, of any process that is a
//! [`Control`].
//!
//! Peers, host names and origins are checked as on the agent listener (`guard`). Its connections are limited in number
//! and time (`listener`), so that they cannot exhaust descriptors. With an admin token, everything under `/api`
//! requires it; metrics and health contain nothing confidential.

mod census;
mod control;
mod events;
mod guard;
mod listener;
mod server;
mod verbs;

pub use self::{
    control::{Control, Followed},
    guard::ADMIN_HEADER,
    listener::most,
    server::run,
    verbs::message_of,
};
