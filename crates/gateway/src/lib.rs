//! How mcpool is put together: configuration, the stack of a call, routing, admin, signals. No protocol logic.

pub mod build;
pub mod route;
pub mod stack;
