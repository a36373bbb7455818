//! Reloads and shutdown of the real binary, with real files and signals.

mod console;
mod key;
mod load;
mod process;
mod programs;
mod reload;
mod retired;
mod retired_programs;
mod shutdown;
