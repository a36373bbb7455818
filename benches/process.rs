//! Each measured program is its own process: started here, read through /proc, ended by its pid.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

/// Kernel ticks per second as /proc shows them: 100 on every Linux this runs on.
const TICKS: f64 = 100.0;

/// A program that was started and ends with this value.
#[derive(Debug)]
pub struct Program {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// Reads the CPU time of a process.
#[derive(Clone, Copy, Debug)]
pub struct CpuMeter {
    pid: u32,
}

impl Program {
    /// Starts a program that says on its first line of output where it listens.
    ///
    /// # Errors
    /// When it does not start, or says something else.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        // Its input stays open for as long as we live: the programs end when it closes.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let what = format!("{command:?}");
        let mut child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        let output = child.stdout.take().context("the program has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let addr = line.trim().parse();
        // Made first, so that the process ends also when its first line is not understood.
        let mut program = Self { child, addr: SocketAddr::from(([0, 0, 0, 0], 0)) };
        program.addr = addr.with_context(|| format!("{what} said {line:?} instead of its address"))?;
        Ok(program)
    }

    /// A program that was started with an address of our choice.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_at(mut command: Command, addr: SocketAddr) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self { child: child.with_context(|| format!("cannot start {command:?}"))?, addr })
    }

    /// Tells it something on its standard input.
    ///
    /// # Errors
    /// When it has ended, or listens to nobody.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.child.stdin.as_mut().context("the program has no input")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads its CPU time.
    #[must_use]
    pub fn meter(&self) -> CpuMeter {
        CpuMeter { pid: self.pid() }
    }

    /// Its resident memory in KiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        parse_rss(&status).context("no VmRSS")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl CpuMeter {
    /// User and system time so far, in seconds; zero when the process is gone.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| parse_cpu(&stat))
            .unwrap_or_default()
    }
}

fn parse_cpu(stat: &str) -> Option<f64> {
    // The name in parentheses may contain anything; the numbers begin behind the last one.
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut fields = numbers.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn parse_rss(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

/// Who runs first where there are fewer cores than programs: what machines of their own would be otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Whenever it wants a core, before all others.
    Ahead,
    /// As the system shares its cores.
    Ordinary,
    /// When nobody else wants the core.
    Behind,
}

impl Rank {
    /// Policy and priority for `chrt`: these are system calls, but not ones that can be made without `unsafe`.
    fn words(self) -> [&'static str; 2] {
        match self {
            Self::Ahead => ["--rr", "1"],
            Self::Ordinary => ["--other", "0"],
            Self::Behind => ["--idle", "0"],
        }
    }

    /// Gives it to the calling thread and those that it starts from now on; false where the system does not.
    #[must_use]
    pub fn take(self) -> bool {
        let own = fs::read_link("/proc/thread-self").ok();
        let Some(thread) = own.as_deref().and_then(|path| path.file_name()) else { return false };
        let [policy, priority] = self.words();
        let told = Command::new("chrt").args([policy, "--pid", priority]).arg(thread).status();
        told.is_ok_and(|status| status.success())
    }

    /// Gives it to a program that is about to be started, where the system can.
    #[must_use]
    pub fn command(self, program: &Path) -> Command {
        let words = self.words();
        let able = Command::new("chrt").args(words).arg("true").stderr(Stdio::null()).status();
        if !able.is_ok_and(|status| status.success()) {
            return Command::new(program);
        }
        let mut command = Command::new("chrt");
        command.args(words).arg(program);
        command
    }
}

/// Processes that this one has started and that bear this name.
///
/// # Errors
/// When the processes cannot be listed.
pub fn children_of(parent: u32, name: &str) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else { continue };
        // Whoever has ended meanwhile is no child any more.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if parse_parent(&stat) == Some((parent, name)) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn parse_parent(stat: &str) -> Option<(u32, &str)> {
    let (head, numbers) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    Some((numbers.split_whitespace().nth(1)?.parse().ok()?, name))
}

/// Ends a process at once, by its id.
///
/// # Errors
/// When it cannot be ended, for instance because it has.
pub fn kill(pid: u32) -> anyhow::Result<()> {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status()?;
    anyhow::ensure!(killed.success(), "process {pid} cannot be killed");
    Ok(())
}

/// Established connections that this port has accepted.
///
/// # Errors
/// When the table cannot be read.
pub fn connections_to(port: u16) -> anyhow::Result<usize> {
    Ok(count_connections(&fs::read_to_string("/proc/net/tcp")?, port))
}

fn count_connections(table: &str, port: u16) -> usize {
    let port = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().is_some_and(|local| local.ends_with(&port));
            local && fields.nth(1) == Some("01")
        })
        .count()
}

/// A free port of the loopback address.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until something listens there, or the program ends.
///
/// # Errors
/// When the program ends first, or nothing listens in time.
pub async fn wait_for_listener(program: &mut Program) -> anyhow::Result<()> {
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(program.addr).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = program.ended() {
            anyhow::bail!("the program ended with {status}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("nothing listens on {} after 10 s", program.addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_hostile_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(parse_cpu(stat), Some(3.0));
        assert_eq!(parse_parent(stat), Some((1, "a) b (c")));
    }

    #[test]
    fn our_own_memory_can_be_read() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(parse_rss(&status).unwrap() > 500);
    }

    #[test]
    fn only_established_connections_of_the_port_count() {
        let table = "  sl  local_address rem_address   st\n\
            0: 0100007F:1F90 00000000:0000 0A 0\n\
            1: 0100007F:1F90 0100007F:A001 01 0\n\
            2: 0100007F:A001 0100007F:1F90 01 0\n\
            3: 0100007F:1F90 0100007F:A002 06 0\n";
        assert_eq!(count_connections(table, 8080), 1);
    }
}
