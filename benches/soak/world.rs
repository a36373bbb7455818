//! The programs of a soak: a gateway, two backends behind a bad network, and a program of the gateway's own.
//!
//! The subtle thing: the gateway never learns that a backend was killed and started again but by its connections: the
//! proxy in front of it is there all the time, as a balancer would be, and the backend comes back on its own port.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use mcpool_testkit::FaultProxy;

use crate::process::{self, Program};

/// Everything that runs.
pub(super) struct World {
    // Dropped first, so that it does not see its backends go.
    pub(super) gateway: Program,
    pub(super) admin: SocketAddr,
    pub(super) places: Vec<Place>,
}

/// One backend, with the network in front of it.
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) proxy: FaultProxy,
    program: Option<Program>,
    addr: SocketAddr,
    path: PathBuf,
    habits: &'static [&'static str],
}

/// Name and habits of the backends.
const PLACES: [(&str, &[&str]); 2] = [("plain", &[]), ("strict", &["--everything"])];
/// How the gateway reaches each of them.
const WIRES: [(&str, &str); 2] = [("http", "mcp"), ("sse", "sse")];
/// The backend that is a program.
pub(super) const PROGRAM: &str = "program";

/// Where the programs are, and where their traces go.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) mcpool: PathBuf,
    pub(super) backend: PathBuf,
    pub(super) stdio_server: PathBuf,
    pub(super) folder: PathBuf,
}

impl World {
    pub(super) async fn start(paths: &Paths) -> anyhow::Result<Self> {
        let mut places = Vec::new();
        for (name, habits) in PLACES {
            places.push(Place::start(name, habits, &paths.backend).await?);
        }
        let (listen, admin) = (process::free_port()?, process::free_port()?);
        let file = paths.folder.join("mcpool.toml");
        fs::write(&file, configuration(listen, admin, &places, &paths.stdio_server)?)?;
        let log = fs::File::create(paths.folder.join("mcpool.log"))?;
        let mut command = Command::new(&paths.mcpool);
        command.arg("serve").arg("--config").arg(&file);
        // What the caller's environment says about another gateway must not reach this one.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MCPOOL_")) {
            command.env_remove(name);
        }
        // A line for each of a million incidents would be a file of its own kind.
        command.env("MCPOOL_LOG", "error").stdout(log.try_clone()?).stderr(log);
        let mut gateway = Program::start_at(command, listen)?;
        process::wait_for_listener(&mut gateway).await.with_context(|| {
            format!("the gateway does not start; its log is in {}", paths.folder.display())
        })?;
        Ok(Self { gateway, admin, places })
    }

    /// The names of the backends as agents call them.
    pub(super) fn backends() -> Vec<String> {
        let of = |(place, _): &(&str, &[&str])| WIRES.map(|(wire, _)| format!("{place}-{wire}"));
        PLACES.iter().flat_map(of).chain([PROGRAM.to_owned()]).collect()
    }
}

impl Place {
    async fn start(name: &'static str, habits: &'static [&'static str], path: &Path) -> anyhow::Result<Self> {
        let addr = process::free_port()?;
        let proxy = FaultProxy::start(addr).await?;
        let mut place = Self { name, proxy, program: None, addr, path: path.to_owned(), habits };
        place.up().await?;
        Ok(place)
    }

    /// Kills its process.
    pub(super) fn down(&mut self) {
        self.program = None;
    }

    /// Starts its process, on the port it always has.
    pub(super) async fn up(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.path);
        command.args(["--threads", "1", "--listen", &self.addr.to_string()]).args(self.habits);
        // It waits for the first line of output.
        self.program = Some(tokio::task::spawn_blocking(|| Program::start(command)).await??);
        Ok(())
    }

    /// Tells its process something, if there is one.
    pub(super) fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        self.program.as_mut().map_or(Ok(()), |program| program.tell(line))
    }
}

/// Everything that takes minutes by default takes seconds here, so that whatever is kept for agents and sessions that
/// are gone comes and goes many times within a run.
fn configuration(
    listen: SocketAddr,
    admin: SocketAddr,
    places: &[Place],
    stdio_server: &Path,
) -> anyhow::Result<String> {
    let mut text = format!("listen = \"{listen}\"\nadmin_listen = \"{admin}\"\n");
    text += "\n[times]\nagent_idle = \"15s\"\norphan = \"5s\"\nreconnect_grace = \"2s\"\n";
    for place in places {
        for (wire, path) in WIRES {
            write!(text, "\n[backends.{}-{wire}]\n", place.name)?;
            write!(
                text,
                "url = \"{}\"\ntransport = \"{wire}\"\n{TIMES}",
                place.proxy.url(&format!("/{path}"))
            )?;
        }
    }
    write!(text, "\n[backends.{PROGRAM}]\ncommand = {:?}\n{TIMES}", stdio_server.display().to_string())?;
    Ok(text)
}

/// The keys of every backend.
const TIMES: &str = "mode = \"shared\"\nconnect_timeout = \"2s\"\nhandshake_timeout = \"5s\"\nidle_timeout = \"10s\"\n\
    max_age = \"1m\"\nprobe_interval = \"2s\"\nprobe_timeout = \"2s\"\ncancel_grace = \"3s\"\n";
