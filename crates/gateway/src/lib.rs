//! The mcpool program as a library: configuration, wiring, admin, console, signals. No protocol logic.

pub mod admin;
pub mod banner;
pub mod cli;
pub mod config;
pub mod console;
pub mod doctor;
mod embedded;
pub mod logging;
pub mod observe;
#[cfg(test)]
mod pages;
pub mod rehearse;
pub mod reload;
pub mod serving;
pub mod signal;
pub mod startup;
pub mod state_dir;
#[cfg(target_os = "linux")]
pub mod supervisor;
pub mod terminal;
pub mod watch;
