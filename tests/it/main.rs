//! One binary, many modules.

mod calls;
mod canary;
mod dropped;
mod dropped_agents;
mod evidence;
mod faults;
mod fidelity;
mod herd;
mod isolation;
mod lab;
mod large;
mod liveness;
mod model;
mod modes;
mod pinned;
mod pools;
mod rig;
mod serial;
mod sessions;
mod shared;
mod skew;
mod slow_readers;
mod stdio;
mod subscriptions;
mod tidy;
mod wires;
