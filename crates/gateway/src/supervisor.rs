//! The supervisor of a program backend: this executable, started between the gateway and the program.
//!
//! A killed gateway (`kill -9`, out of memory) cannot end its programs. The supervisor detects its death by the closed
//! input of the program, and ends the program. As the subreaper of all its descendants it also finds and ends processes
//! that left the process group (`setsid`).
//!
//! `PR_SET_PDEATHSIG` does not work between gateway and supervisor: Linux sends it when the parent *thread* ends, and
//! threads of a runtime come and go. It works between supervisor and program, in case the supervisor is killed, because
//! the supervisor has one thread. A process can only set it for itself, so there are two roles: `supervise-stdio`
//! starts `exec-stdio`, which sets it and becomes the program.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsFd, unix::process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use mcpool_upstream::transport::supervised::{Supervisor, not_started};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{SigSet, Signal, kill, raise},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid, getppid},
};

const SUPERVISE: &str = "supervise-stdio";
const EXEC: &str = "exec-stdio";
/// The running executable, even if its file was replaced.
const SELF: &str = "/proc/self/exe";
/// The process name.
const NAME: &str = "mcpool";
/// Time for a program to end after its input closed, when the gateway is gone.
const ORPHANED: Duration = Duration::from_secs(1);
/// Interval in milliseconds of checks for the gateway's death after the input ended.
const LOOK: u16 = 100;
/// Maximum wait for killed processes.
const KILLED: Duration = Duration::from_secs(2);
/// Interval of checks for remaining processes.
const AGAIN: Duration = Duration::from_millis(5);
/// Exit status for a program that cannot start, as in shells.
const CANNOT_START: u8 = 127;

/// The role of this process, if it is not the gateway.
#[derive(Debug)]
pub struct Role {
    is_supervisor: bool,
    parent: Pid,
    program: OsString,
    args: Vec<OsString>,
}

/// Starts program backends under a supervisor, if possible.
pub fn supervise_backends() {
    if Path::new(SELF).exists() {
        Supervisor { program: SELF.into(), name: NAME.into(), args: vec![SUPERVISE.into()] }.set();
    }
}

/// The role given on the command line.
#[must_use]
pub fn role() -> Option<Role> {
    let mut args = std::env::args_os().skip(1);
    let role = args.next()?;
    let is_supervisor = role == SUPERVISE;
    if !is_supervisor && role != EXEC {
        return None;
    }
    let parent = Pid::from_raw(args.next()?.to_str()?.parse().ok()?);
    Some(Role { is_supervisor, parent, program: args.next()?, args: args.collect() })
}

impl Role {
    /// Runs the role. Returns the program's exit status.
    #[must_use]
    pub fn play(self) -> ExitCode {
        let played = if self.is_supervisor { self.supervise() } else { self.become_program() };
        played.unwrap_or_else(|why| {
            // An error means that the gateway is gone.
            let _ = io::stdout().write_all(not_started(&why).as_bytes());
            CANNOT_START.into()
        })
    }

    fn become_program(self) -> io::Result<ExitCode> {
        // The signal mask was inherited from the supervisor.
        SigSet::empty().thread_set_mask()?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The supervisor may have died before this took effect.
        if getppid() != self.parent {
            return Ok(ExitCode::FAILURE);
        }
        Err(Command::new(self.program).args(self.args).exec())
    }

    fn supervise(self) -> io::Result<ExitCode> {
        prctl::set_child_subreaper(true)?;
        // Signals to the group are for the program.
        SigSet::all().thread_block()?;
        let wanted = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGUSR1]);
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let child = Command::new(SELF)
            .arg0(NAME)
            .args([EXEC, &getpid().to_string()])
            .arg(self.program)
            .args(self.args)
            .spawn()?;
        let mut below = Below { child: Pid::from_raw(child.id().cast_signed()), ended: None };
        if let Err(why) = give_up_pipes() {
            below.end();
            return Err(why);
        }
        let mut input = Some(input);
        let mut killed_at = None;
        loop {
            let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            // Only the closing of the other end matters, which poll always reports.
            fds.extend(input.as_ref().map(|input| PollFd::new(input.as_fd(), PollFlags::empty())));
            let timeout = if input.is_some() { PollTimeout::NONE } else { LOOK.into() };
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
            if fds.get(1).is_some_and(|input| input.any().unwrap_or(true)) {
                input = None;
            }
            if input.is_none() && getppid() != self.parent {
                killed_at.get_or_insert_with(|| Instant::now() + ORPHANED);
            }
            let mut end_all = killed_at.is_some_and(|at| Instant::now() >= at);
            while let Ok(Some(signal)) = signals.read_signal() {
                end_all |= signal.ssi_signo == Signal::SIGUSR1 as u32;
            }
            below.reap();
            if end_all || below.ended.is_some() {
                break;
            }
        }
        below.end();
        Ok(below.ended.map_or(ExitCode::FAILURE, end_as))
    }
}

/// Leaves the pipes to the program alone, so that closing them works as without a supervisor.
fn give_up_pipes() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// All descendants of this process.
struct Below {
    child: Pid,
    /// The program's exit status.
    ended: Option<WaitStatus>,
}

impl Below {
    /// Reaps all ended children. True if any are left.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(status) if status.pid() == Some(self.child) => self.ended = Some(status),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Kills children until none is left: the children of a killed one become ours, as we are the subreaper.
    fn end(&mut self) {
        let until = Instant::now() + KILLED;
        while self.reap() && Instant::now() < until {
            for pid in children() {
                // It may have ended already.
                let _ = kill(pid, Signal::SIGKILL);
            }
            thread::sleep(AGAIN);
        }
    }
}

/// Our children. Their process ids cannot be reused before we wait for them.
fn children() -> Vec<Pid> {
    let us = getpid().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let child = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // "7 (a name (with) anything) S 1 ..": state, then the parent.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        (parent == us).then(|| Pid::from_raw(pid))
    };
    processes.filter_map(child).collect()
}

/// Exits with the program's status or signal.
fn end_as(status: WaitStatus) -> ExitCode {
    match status {
        WaitStatus::Exited(_, code) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        WaitStatus::Signaled(_, signal, _) => {
            // The program has written its core dump, if any.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            let _ = SigSet::from(signal).thread_unblock();
            let _ = raise(signal);
            // For an ignored signal: the status that shells return.
            u8::try_from(128 + signal as i32).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        _ => ExitCode::FAILURE,
    }
}
