//! The life of the real binary: another configuration while it serves, and its end. With real files and real signals.

mod console;
mod key;
mod load;
mod process;
mod programs;
mod reload;
mod retired;
mod retired_programs;
mod shutdown;
