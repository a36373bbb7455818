//! One process of a backend, with its group: started with almost nothing of our environment, looked after by one
//! task, and ended with everything it started.
//!
//! It is asked to end by closing its input, then by SIGTERM, then killed; whenever it has ended, by itself too, the
//! rest of its group is killed. If the gateway is dropped meanwhile, the group is killed at once. What leaves the group
//! (`setsid`) is ended by the supervisor of the process, where there is one ([`supervised`]).

use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use process_wrap::tokio::{ChildWrapper, CommandWrap, ProcessGroup};
use tokio::{
    io::AsyncRead,
    process::{ChildStderr, ChildStdin, ChildStdout},
    signal::unix::SignalKind,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    diagnostics,
    queue::{self, Outgoing},
    respawn::Respawn,
    supervised,
};
use crate::{
    clock,
    config::StdioEndpoint,
    descriptors,
    error::{Cause, SendError},
    tasks::Tasks,
};

/// Time to end after its input was closed.
pub(super) const POLITE: Duration = Duration::from_secs(2);
/// Time to end after SIGTERM.
pub(super) const TERMINATE: Duration = Duration::from_secs(5);
/// Time for a supervisor to kill what is left.
const KILL: Duration = Duration::from_millis(500);
/// What stderr still holds when the process ended is read for this long.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a process inherits: what programs need to find themselves, and no secrets.
const INHERITED: [&str; 11] = [
    "PATH",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
];

/// A process that was started.
pub(super) struct Process {
    pub(super) pid: u32,
    /// The way into it.
    pub(super) queue: mpsc::Sender<Outgoing>,
    stop: CancellationToken,
    ended: watch::Receiver<Option<Ended>>,
}

/// Its standard output.
pub(super) type Stdout = Box<dyn AsyncRead + Send + Unpin>;

/// A process and its standard output.
pub(super) type Started = (Arc<Process>, Stdout);

/// How it ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) at: Instant,
    pub(super) why: String,
}

/// Starts one, and the task that looks after it.
pub(super) fn start(
    endpoint: &StdioEndpoint,
    backend: &Arc<str>,
    tasks: &Tasks,
    respawn: &Arc<Respawn>,
) -> Result<Started, SendError> {
    let started = spawn(endpoint).inspect_err(|_| respawn.failed());
    let (group, pipes) = started.map_err(|why| not_started(endpoint, &why))?;
    let pid = group.child.id().unwrap_or_default();
    let (queue, inbox) = mpsc::channel(queue::LENGTH);
    let (tell, ended) = watch::channel(None);
    let stop = CancellationToken::new();
    let (backend, respawn) = (Arc::clone(backend), Arc::clone(respawn));
    let log = diagnostics::drain(pipes.stderr, backend, pid);
    let writing = {
        let (stop, stdin) = (stop.clone(), pipes.stdin);
        // An error means that nobody reads, which the end of the process explains.
        async move { drop(stop.run_until_cancelled(queue::write(stdin, inbox)).await) }
    };
    let life = look_after(group, stop.clone(), respawn, tell);
    tasks.spawn("process", async move {
        let mut log = Box::pin(log);
        let mut life = Box::pin(async { futures::join!(writing, life) });
        tokio::select! {
            _ = &mut life => drop(tokio::time::timeout(LAST_WORDS, log).await),
            () = &mut log => drop(life.await),
        }
    });
    Ok((Arc::new(Process { pid, queue, stop, ended }), Box::new(pipes.stdout)))
}

/// Starts one that is a future: it has ended when the future has.
#[cfg(feature = "seeded-bugs")]
pub(super) fn simulate(program: &super::Program, tasks: &Tasks, respawn: &Arc<Respawn>) -> Started {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (stdout, stdin) = tokio::io::split(ours);
    let (queue, inbox) = mpsc::channel(queue::LENGTH);
    let (tell, ended) = watch::channel(None);
    let (stop, respawn) = (CancellationToken::new(), Arc::clone(respawn));
    let (stopped, running) = (stop.clone(), program(theirs));
    tasks.spawn("process", async move {
        let started = clock::now();
        let life = async {
            let asked = stopped.run_until_cancelled(running).await.is_none();
            let at = clock::now();
            respawn.ended(at.saturating_duration_since(started), asked);
            stopped.cancel();
            tell.send_replace(Some(Ended { at, why: "the process ended".to_owned() }));
        };
        let writing = stopped.run_until_cancelled(queue::write(stdin, inbox));
        let _ = futures::join!(writing, life);
    });
    (Arc::new(Process { pid: 0, queue, stop, ended }), Box::new(stdout))
}

/// Waits for the end, or brings it about when that is wanted.
async fn look_after(
    mut group: Group,
    stop: CancellationToken,
    respawn: Arc<Respawn>,
    tell: watch::Sender<Option<Ended>>,
) {
    let started = clock::now();
    let by_itself = stop.run_until_cancelled(group.wait()).await;
    let asked = by_itself.is_none();
    let status = match by_itself {
        Some(status) => status,
        None => group.end().await,
    };
    group.kill();
    group.is_over = true;
    let at = clock::now();
    respawn.ended(at.saturating_duration_since(started), asked);
    // Nothing can be written any more.
    stop.cancel();
    let why = match status {
        Ok(status) => format!("the process ended ({status})"),
        Err(why) => format!("the process is lost: {why}"),
    };
    tell.send_replace(Some(Ended { at, why }));
}

impl Process {
    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.ended.borrow().is_some() || self.ended.has_changed().is_err()
    }

    /// Wants it to end.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when it has ended, and everything in its group was killed.
    pub(super) async fn ended(&self) -> Ended {
        let lost = || Ended { at: clock::now(), why: "the gateway ends".to_owned() };
        let mut ended = self.ended.clone();
        // An error means that its task was dropped, and the process with it.
        ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone()).unwrap_or_else(lost)
    }
}

struct Pipes {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// The error of a program that did not start.
pub(super) fn not_started(endpoint: &StdioEndpoint, why: &io::Error) -> SendError {
    SendError::not_sent(match descriptors::is_shortage(why) {
        true => Cause::Descriptors,
        false => Cause::Connect(reason(endpoint, why)),
    })
}

/// Why a program does not start. Folders are nothing for agents, who see this text: it names the program and where it was
/// looked for.
fn reason(endpoint: &StdioEndpoint, why: &io::Error) -> String {
    let name = Path::new(&endpoint.command).file_name().unwrap_or(&endpoint.command).to_string_lossy();
    if why.kind() != io::ErrorKind::NotFound {
        return format!("its program {name:?} does not start: {why}");
    }
    if endpoint.cwd.as_ref().is_some_and(|folder| !folder.is_dir()) {
        return format!("its program {name:?} does not start: its folder (cwd) is not there");
    }
    if Path::new(&endpoint.command).components().count() > 1 {
        return format!("its program {name:?} does not start: there is no such file");
    }
    format!("its program {name:?} does not start: it is in no folder of PATH")
}

fn spawn(endpoint: &StdioEndpoint) -> io::Result<(Group, Pipes)> {
    let (mut command, is_supervised) = supervised::command(endpoint);
    let passed = |name: &str| INHERITED.contains(&name) || name.starts_with("LC_");
    let inherited = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passed));
    command.env_clear().envs(inherited).envs(&endpoint.env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(folder) = &endpoint.cwd {
        command.current_dir(folder);
    }
    let child = CommandWrap::from(command).wrap(ProcessGroup::leader()).spawn()?;
    let mut group = Group { child, is_supervised, is_over: false };
    let missing = || io::Error::other("a pipe is missing");
    let pipes = Pipes {
        stdin: group.child.stdin().take().ok_or_else(missing)?,
        stdout: group.child.stdout().take().ok_or_else(missing)?,
        stderr: group.child.stderr().take().ok_or_else(missing)?,
    };
    Ok((group, pipes))
}

/// The process and all it started, unless they left the group and it has no supervisor. Killed when dropped.
struct Group {
    child: Box<dyn ChildWrapper>,
    /// The leader is a supervisor.
    is_supervised: bool,
    /// Killed and waited for: its number may be somebody else's.
    is_over: bool,
}

impl Group {
    /// Waits for the leader alone: the wrapper's own wait would block a thread for as long as any other of the group
    /// lives that has become our child.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.inner_mut().wait().await
    }

    /// Its input is closed already. Then SIGTERM, then SIGKILL.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(POLITE, self.wait()).await {
            return status;
        }
        // Gone between the two: then it is waited for below.
        let _ = self.child.signal(SignalKind::terminate().as_raw_value());
        if let Ok(status) = tokio::time::timeout(TERMINATE, self.wait()).await {
            return status;
        }
        self.end_all();
        if self.is_supervised
            && let Ok(status) = tokio::time::timeout(KILL, self.wait()).await
        {
            return status;
        }
        self.kill();
        self.wait().await
    }

    /// Kills everything that is left. A supervisor does that itself, because it finds what left the group.
    fn end_all(&mut self) {
        if self.is_supervised {
            let _ = self.child.inner_mut().signal(supervised::END_ALL.as_raw_value());
        } else {
            self.kill();
        }
    }

    fn kill(&mut self) {
        // The only error is that nobody is left.
        let _ = self.child.start_kill();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_over {
            self.end_all();
        }
    }
}
