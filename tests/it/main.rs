//! One binary, many modules.

mod dropped;
mod herd;
mod lab;
mod rig;
mod tidy;
