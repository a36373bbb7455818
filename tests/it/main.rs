//! One binary, many modules.

mod calls;
mod canary;
mod dropped;
mod dropped_agents;
mod evidence;
mod fairness;
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
mod stdio;
mod subscriptions;
mod tidy;
mod wires;
