//! The supervisor of a process: a small program of the gateway's owner that starts the backend's program. It ends the
//! program and all its descendants on request, and when the gateway is gone for any reason.
//!
//! This crate only starts it, if the owner set one: `PROGRAM ARGS.. PID COMMAND ARGS..`, where PID is the gateway's.
//! The supervisor holds none of the three pipes, leads the process group, ignores signals to the group, ends everything
//! below it at SIGUSR1, and ends as its program did. If the program cannot be started it writes one line to standard
//! output, [`not_started`], so that the error is the same as without it.

use std::{ffi::OsString, io, sync::OnceLock};

use tokio::{process::Command, signal::unix::SignalKind};

use crate::config::StdioEndpoint;

/// One per process, as it is a property of the executable.
static SUPERVISOR: OnceLock<Supervisor> = OnceLock::new();

/// Signal to the supervisor alone: kill everything below, and end.
pub(super) const END_ALL: SignalKind = SignalKind::user_defined1();
/// Beginning of its line; the system's error code follows.
const NOT_STARTED: &str = "mcpool-supervisor: not started: ";

/// The command of a supervisor.
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
    /// Starts every later stdio backend under this supervisor. Only the first call counts.
    pub fn set(self) {
        drop(SUPERVISOR.set(self));
    }
}

/// The line a supervisor writes if the program does not start.
#[must_use]
pub fn not_started(why: &io::Error) -> String {
    format!("{NOT_STARTED}{}\n", why.raw_os_error().unwrap_or_default())
}

/// The reason the program did not start, if this is that line.
pub(super) fn why_not_started(line: &str) -> Option<io::Error> {
    SUPERVISOR.get()?;
    line.strip_prefix(NOT_STARTED)?.parse().ok().map(io::Error::from_raw_os_error)
}

/// The command that starts the program, and whether a supervisor does it.
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
