//! One binary, many modules.

mod herd;
mod rig;
mod tidy;
