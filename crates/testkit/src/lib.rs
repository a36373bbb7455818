//! What tests need besides the scriptable peers of [`mcpool_demo`], which it re-exports: a bad network to put between
//! them, bytes in, bytes out, over loopback sockets, and both ends of the conformance suites.
//!
//! [`fixture`] is a server of its own: not scriptable, but with everything the conformance suites ask for, in all
//! revisions; [`suite`] is the other end of them, the gateway as a client.

pub mod fault_proxy;
pub mod fixture;
pub mod suite;

pub use fault_proxy::FaultProxy;
pub use mcpool_demo::*;
