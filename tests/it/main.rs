//! One binary, many modules.

mod calls;
mod dropped;
mod herd;
mod lab;
mod modes;
mod pinned;
mod pools;
mod rig;
mod sessions;
mod tidy;
