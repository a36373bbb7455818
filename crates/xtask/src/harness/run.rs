//! Processes with an end: each has its own process group, a log and a time limit.
//!
//! The subtle thing: a process is ended with its whole group and by id, never by name, so that what a test
//! runner or a shell has started goes with it and nobody else's processes do.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::harness::paths;

/// How often a waiting job is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often a long job says that it lives.
const SIGN: Duration = Duration::from_secs(20);

/// One process to run.
#[derive(Debug)]
pub(crate) struct Job {
    command: Command,
    shown: String,
    within: Duration,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status zero.
    pub(crate) success: bool,
    /// It was ended by us at its time limit.
    pub(crate) timed_out: bool,
    /// Everything it wrote, empty when it was attached to the terminal.
    pub(crate) output: String,
    /// Where that is kept.
    pub(crate) log: PathBuf,
}

impl Ended {
    /// Nothing, or an error with the end of the log.
    pub(crate) fn ok(&self) -> Result<()> {
        if self.success {
            return Ok(());
        }
        let why = if self.timed_out { "ran out of time" } else { "failed" };
        bail!("{why}; log {}, which ends:\n{}", shown(&self.log), tail(&self.output, 25))
    }
}

impl Job {
    /// A program run at the root of the workspace, with ten minutes unless told otherwise.
    pub(crate) fn new(program: impl AsRef<Path>) -> Self {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.current_dir(paths::root());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { command, shown: name, within: Duration::from_secs(600) }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            self.command.arg(arg.as_ref());
            self.shown.push(' ');
            self.shown.push_str(arg.as_ref());
        }
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in this folder.
    pub(crate) fn at(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Sets the time limit.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// Runs with its output in `.deps/logs/NAME.log`, saying every few seconds what its last line is.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the result.
    pub(crate) fn logged(mut self, name: &str) -> Result<Ended> {
        let log = log_file(name)?;
        let file = File::create(&log)?;
        self.command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let (success, timed_out) = self.wait(|| {
            let output = fs::read(&log).unwrap_or_default();
            tail(&String::from_utf8_lossy(&output), 1)
        })?;
        let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(Ended { success, timed_out, output, log })
    }

    /// Runs on our own terminal.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn attached(mut self) -> Result<Ended> {
        let (success, timed_out) = self.wait(String::new)?;
        Ok(Ended { success, timed_out, output: String::new(), log: PathBuf::new() })
    }

    fn wait(&mut self, last: impl Fn() -> String) -> Result<(bool, bool)> {
        println!("   $ {}", self.shown);
        let began = Instant::now();
        let child = self.command.process_group(0).spawn();
        let mut group = Group(child.with_context(|| format!("cannot start {}", self.shown))?);
        let mut sign = began + SIGN;
        loop {
            if let Some(status) = group.0.try_wait()? {
                return Ok((status.success(), false));
            }
            let now = Instant::now();
            if now > began + self.within {
                return Ok((false, true)); // dropping the group ends it
            }
            if now > sign {
                sign = now + SIGN;
                println!("     {:>4.0} s  {}", began.elapsed().as_secs_f64(), last());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Starts something that runs until it is dropped; its lines on standard output can be read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn service(mut self, name: &str) -> Result<Service> {
        let log = log_file(name)?;
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let child = self.command.process_group(0).spawn();
        let mut group = Group(child.with_context(|| format!("cannot start {}", self.shown))?);
        let stdin = group.0.stdin.take();
        let stdout = group.0.stdout.take().context("standard output is piped")?;
        Ok(Service { name: name.to_owned(), lines: read_lines(stdout), stdin, group, log })
    }
}

/// A running process; dropping it ends its group.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    lines: mpsc::Receiver<String>,
    /// Its standard input, while it is open.
    pub(crate) stdin: Option<ChildStdin>,
    group: Group,
    log: PathBuf,
}

impl Service {
    /// The next line it writes, `None` at its end.
    ///
    /// # Errors
    /// When it writes none within the limit.
    pub(crate) fn line(&self, within: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Ok(Some(line)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("{} was silent for {} s; log {}", self.name, within.as_secs(), shown(&self.log))
            }
        }
    }

    /// Waits for the line `ready PORT`, or for a bare `ADDRESS:PORT`.
    ///
    /// # Errors
    /// When it ends first or takes longer than a minute.
    pub(crate) fn ready(&self) -> Result<u16> {
        let limit = Instant::now() + Duration::from_secs(60);
        while let Some(line) = self.line(limit.saturating_duration_since(Instant::now()))? {
            if let Some(port) = line.strip_prefix("ready ") {
                return Ok(port.trim().parse()?);
            }
            if let Ok(address) = line.trim().parse::<SocketAddr>() {
                return Ok(address.port());
            }
        }
        bail!("{} ended before it was ready; {}", self.name, self.last_words())
    }

    /// Ends it with its group, by SIGKILL, and waits for that.
    pub(crate) fn kill(&mut self) {
        self.group.end();
    }

    /// Sends it a signal, such as `TERM`.
    ///
    /// # Errors
    /// When it has ended, or `kill` cannot be started.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status()?;
        if !sent.success() {
            bail!("{} took no {name}", self.name);
        }
        Ok(())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.group.0.id()
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.group.0.try_wait(), Ok(None))
    }

    /// Whether it ended with success, once its output has ended.
    ///
    /// # Errors
    /// When it does not end within the limit.
    pub(crate) fn end(&mut self, within: Duration) -> Result<bool> {
        let limit = Instant::now() + within;
        while Instant::now() < limit {
            if let Some(status) = self.group.0.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(LOOK);
        }
        bail!("{} did not end within {} s", self.name, within.as_secs())
    }

    /// The end of what it wrote to standard error, with the name of the log.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        format!("log {}: {}", shown(&self.log), tail(&String::from_utf8_lossy(&text), 6))
    }
}

/// A child that leads its own process group.
#[derive(Debug)]
struct Group(Child);

impl Group {
    fn end(&mut self) {
        // The leader may be gone while its children live, so the group is ended in any case.
        // No `--` before the group: dash, Debian's `sh`, takes it for a number.
        let group = format!("kill -KILL -{} 2>/dev/null", self.0.id());
        let _ = Command::new("sh").args(["-c", &group]).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lines of a pipe, read by a thread that ends with the pipe; at most a thousand wait.
fn read_lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1000);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // A reader that has gone must not stop the process, so the pipe is drained to its end.
            let _ = sender.send(line);
        }
    });
    receiver
}

fn log_file(name: &str) -> Result<PathBuf> {
    fs::create_dir_all(paths::logs())?;
    Ok(paths::logs().join(format!("{name}.log")))
}

/// A path below the root, shortened.
fn shown(path: &Path) -> String {
    path.strip_prefix(paths::root()).unwrap_or(path).display().to_string()
}

/// The last lines of a text that say something.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let told: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    told[told.len().saturating_sub(lines)..].join("\n")
}
