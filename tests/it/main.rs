//! One binary, many modules.

mod calls;
mod dropped;
mod herd;
mod lab;
mod pinned;
mod pools;
mod rig;
mod sessions;
mod tidy;
