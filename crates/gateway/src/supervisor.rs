//! The supervisor of a backend's process: this same executable, started between the gateway and the program.
//!
//! It exists because a gateway that is killed (`kill -9`, out of memory) can end nothing. The supervisor notices that the
//! gateway is gone, by the end of the program's input, and ends the program. As the subreaper of everything that descends
//! from it, it also finds what left the process group (`setsid`), and ends it with the program.
//!
//! The subtle things. The signal that Linux sends at the death of a parent (`PR_SET_PDEATHSIG`) is of no use between
//! gateway and supervisor: it is sent when the *thread* ends that started the child, and threads of a runtime come and
//! go. Between supervisor and program it is of use, in case the supervisor is killed: there is one thread. It can only be
//! set by the process itself, so there are two roles: `supervise-stdio` starts `exec-stdio`, which sets it and becomes the
//! program.

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
/// The executable that runs, also where its file was replaced meanwhile.
const SELF: &str = "/proc/self/exe";
/// Its name in the list of processes.
const NAME: &str = "mcpool";
/// Time for a program to end by the end of its input when the gateway is gone.
const ORPHANED: Duration = Duration::from_secs(1);
/// How often it looks whether the gateway is gone, once the input has ended.
const LOOK: u16 = 100;
/// The longest that killed processes are waited for.
const KILLED: Duration = Duration::from_secs(2);
/// Pause between two looks at what is left.
const AGAIN: Duration = Duration::from_millis(5);
/// The exit status of shells for a program that cannot be started.
const CANNOT_START: u8 = 127;

/// What this process is started for, if it is not the gateway.
#[derive(Debug)]
pub struct Role {
    is_supervisor: bool,
    parent: Pid,
    program: OsString,
    args: Vec<OsString>,
}

/// Lets the backends of this process that are programs be started by a supervisor, where that is possible.
pub fn supervise_backends() {
    if Path::new(SELF).exists() {
        Supervisor { program: SELF.into(), name: NAME.into(), args: vec![SUPERVISE.into()] }.set();
    }
}

/// The role that the command line names.
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
    /// Does what it is started for. The exit status is the program's.
    #[must_use]
    pub fn play(self) -> ExitCode {
        let played = if self.is_supervisor { self.supervise() } else { self.become_program() };
        played.unwrap_or_else(|why| {
            // Nobody reads it: then the gateway is gone.
            let _ = io::stdout().write_all(not_started(&why).as_bytes());
            CANNOT_START.into()
        })
    }

    fn become_program(self) -> io::Result<ExitCode> {
        // The supervisor's is inherited.
        SigSet::empty().thread_set_mask()?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It may have died before that was set.
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
            // Nothing is wanted of it but that its other end was closed, which is always told.
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

/// The pipes are the program's alone, so that closing them means what it means without a supervisor.
fn give_up_pipes() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// Everything that descends from this process.
struct Below {
    child: Pid,
    /// How the program ended.
    ended: Option<WaitStatus>,
}

impl Below {
    /// Takes the exit status of all that ended. Whether anything is left.
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

    /// Kills children until none is left: those of a killed one become children of this process, the subreaper.
    fn end(&mut self) {
        let until = Instant::now() + KILLED;
        while self.reap() && Instant::now() < until {
            for pid in children() {
                // It may have ended meanwhile.
                let _ = kill(pid, Signal::SIGKILL);
            }
            thread::sleep(AGAIN);
        }
    }
}

/// The children of this process. None of their numbers is anybody else's before they are waited for.
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

/// Ends as the program did.
fn end_as(status: WaitStatus) -> ExitCode {
    match status {
        WaitStatus::Exited(_, code) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        WaitStatus::Signaled(_, signal, _) => {
            // The program has written its core, where one is wanted.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            let _ = SigSet::from(signal).thread_unblock();
            let _ = raise(signal);
            // A signal that this process ignores: the status that shells give.
            u8::try_from(128 + signal as i32).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        _ => ExitCode::FAILURE,
    }
}
