//! One cell: one client on one transport of the gateway against one backend, several agents at once.
//!
//! The subtle thing: the driver stops while all its agents are open, so that the count of backend sessions is
//! read at the one moment at which "fewer sessions than agents" says something.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::real::backends::Kind;
use crate::real::driver::Client;

/// What a driver must report, each once.
const CHECKS: [&str; 7] = ["handshake", "list", "calls", "progress", "cancel", "after-cancel", "close"];
/// A whole cell; a step has its own, shorter limit in the driver.
const LIMIT: Duration = Duration::from_secs(180);

/// One cell of the matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell<'a> {
    /// Who calls.
    pub(crate) client: &'a Client,
    /// Over what: `sse` or `http`.
    pub(crate) transport: &'static str,
    /// Name of the backend in the gateway.
    pub(crate) backend: &'a str,
    /// Its tools.
    pub(crate) kind: Kind,
    /// Agents at once.
    pub(crate) agents: u32,
}

/// Where the agents of a cell go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way<'a> {
    /// Through the gateway.
    Gateway(&'a Gateway),
    /// To the backend itself, for comparison; nothing is shared there.
    Direct(&'a str),
}

/// What a cell has shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Backend sessions while all agents were open, 0 when it did not come so far.
    pub(crate) sessions: u64,
    /// Time of the whole cell.
    pub(crate) took: Duration,
    /// What failed, one line each.
    pub(crate) failures: Vec<String>,
}

impl Cell<'_> {
    /// Its name: client, transport, backend.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.client.name, self.transport, self.backend)
    }

    /// Runs it.
    pub(crate) fn run(&self, way: Way<'_>) -> Shown {
        let began = Instant::now();
        let mut shown = Shown { sessions: 0, took: Duration::ZERO, failures: Vec::new() };
        if let Err(error) = self.drive(way, &mut shown) {
            shown.failures.push(format!("{error:#}"));
        }
        shown.took = began.elapsed();
        shown
    }

    fn drive(&self, way: Way<'_>, shown: &mut Shown) -> Result<()> {
        let url = match way {
            Way::Gateway(gateway) => {
                gateway.url(self.backend, if self.transport == "sse" { "sse" } else { "mcp" })
            }
            Way::Direct(url) => url.to_owned(),
        };
        let agents = self.agents.to_string();
        let job = self.client.cell().args(["--url", &url, "--transport", self.transport]);
        let job = job.args(["--kind", self.kind.name(), "--agents", &agents, "--hold"]);
        let mut driver = job.service(&format!("cell-{}", self.name().replace('/', "-")))?;
        let limit = Instant::now() + LIMIT;
        let mut missing = CHECKS.to_vec();
        while let Some(line) = driver.line(limit.saturating_duration_since(Instant::now()))? {
            let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
            if said["hold"] == true {
                if let Way::Gateway(gateway) = way {
                    self.count(gateway, shown);
                }
                if let Some(stdin) = driver.stdin.as_mut() {
                    stdin.write_all(b"go on\n")?;
                }
                continue;
            }
            let check = said["check"].as_str().unwrap_or_default();
            missing.retain(|wanted| *wanted != check);
            if said["ok"] != true {
                shown.failures.push(format!("{check}: {}", said["detail"].as_str().unwrap_or(&line)));
            }
        }
        let success = driver.end(Duration::from_secs(10))?;
        if !missing.is_empty() {
            bail!("no report of {}; {}", missing.join(", "), driver.last_words());
        }
        if !success && shown.failures.is_empty() {
            bail!("the driver failed; {}", driver.last_words());
        }
        Ok(())
    }

    fn count(&self, gateway: &Gateway, shown: &mut Shown) {
        match gateway.sessions(self.backend) {
            Ok(sessions) => {
                shown.sessions = sessions;
                if sessions == 0 || sessions >= u64::from(self.agents) {
                    shown.failures.push(format!("sharing: {sessions} sessions for {} agents", self.agents));
                }
            }
            Err(error) => shown.failures.push(format!("sharing: {error:#}")),
        }
    }
}
