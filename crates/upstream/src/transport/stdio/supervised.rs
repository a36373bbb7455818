//! The supervisor of a process: a small program of the gateway's owner that starts the backend's program, and ends it and
//! everything that descends from it when it is asked to, and when the gateway is gone, however that happened.
//!
//! This crate only starts it, where the owner named one: `PROGRAM ARGS.. PID COMMAND ARGS..`, where PID is the
//! gateway's. The supervisor keeps none of the three pipes, leads the process group, ignores signals that are sent to
//! the group, ends everything below it at SIGUSR1, and ends as its program did. If the program cannot be started it
//! writes one line to standard output, [`not_started`], so that the error is the same as without it.

use std::{ffi::OsString, io, sync::OnceLock};

use tokio::{process::Command, signal::unix::SignalKind};

use crate::config::StdioEndpoint;

/// One for the whole process, as it is a property of the executable that runs.
static SUPERVISOR: OnceLock<Supervisor> = OnceLock::new();

/// Sent to the supervisor alone: it kills everything below it, and ends.
pub(super) const END_ALL: SignalKind = SignalKind::user_defined1();
/// What its line begins with. The system's error code follows.
const NOT_STARTED: &str = "mcpool-supervisor: not started: ";

/// How a supervisor is started.
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// The program.
    pub program: OsString,
    /// Its name in the list of processes.
    pub name: OsString,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

impl Supervisor {
    /// From now on every backend that is a program is started by this one. Only the first call counts.
    pub fn set(self) {
        drop(SUPERVISOR.set(self));
    }
}

/// The line a supervisor writes when the program does not start.
#[must_use]
pub fn not_started(why: &io::Error) -> String {
    format!("{NOT_STARTED}{}\n", why.raw_os_error().unwrap_or_default())
}

/// Why the program did not start, if this is that line.
pub(super) fn why_not_started(line: &str) -> Option<io::Error> {
    SUPERVISOR.get()?;
    line.strip_prefix(NOT_STARTED)?.parse().ok().map(io::Error::from_raw_os_error)
}

/// The command that starts the program, and whether that is done by a supervisor.
pub(super) fn command(endpoint: &StdioEndpoint) -> (Command, bool) {
    let Some(supervisor) = SUPERVISOR.get() else {
        let mut command = Command::new(&endpoint.command);
        command.args(&endpoint.args);
        return (command, false);
    };
    let mut command = Command::new(&supervisor.program);
    command.arg0(&supervisor.name).args(&supervisor.args).arg(std::process::id().to_string());
    command.arg(&endpoint.command).args(&endpoint.args);
    (command, true)
}
