//! The real backends: each a process on loopback that says `ready PORT`, ended when dropped, or a program that the
//! gateway starts itself.
//!
//! The subtle thing: FastMCP's streamable server stands at `/sse/`, as users mount it; a GET without a session
//! is answered 400 there, which is the very complaint this project began with.

use anyhow::Result;

use crate::harness::http;
use crate::harness::paths;
use crate::harness::run::{Job, Service};

/// Which tools a backend has (the drivers know three sets).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Our FastMCP server.
    FastMcp,
    /// `@modelcontextprotocol/server-everything`.
    Everything,
    /// The test kit's server, which is also the bundled demo backend.
    Testkit,
    /// Our server over the TypeScript SDK that pings its client and closes what is silent.
    Pinging,
    /// Our server over the official Python SDK, of the version its virtual environment has.
    Mcp,
    /// Our server over the TypeScript SDK 2.x.
    TypeScript {
        /// 2026-07-28 alone.
        strict: bool,
    },
    /// Our server over the official Rust SDK.
    Rmcp,
}

impl Kind {
    /// What the drivers call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FastMcp | Self::Mcp | Self::TypeScript { .. } | Self::Rmcp => "fastmcp",
            Self::Everything => "everything",
            Self::Testkit => "testkit",
            Self::Pinging => "pinging",
        }
    }
}

/// A backend of the matrix, by name and how it is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// Its name in the gateway.
    pub(crate) name: &'static str,
    /// Its tools.
    pub(crate) kind: Kind,
    /// `sse`, `http` or `stdio`.
    pub(crate) transport: &'static str,
    venv: &'static str,
    path: &'static str,
}

/// Every backend of the matrix.
pub(crate) const ALL: [Spec; 8] = [
    Spec { name: "everything-sse", kind: Kind::Everything, transport: "sse", venv: "", path: "/sse" },
    Spec { name: "everything-http", kind: Kind::Everything, transport: "http", venv: "", path: "/mcp" },
    Spec { name: "everything-stdio", kind: Kind::Everything, transport: "stdio", venv: "", path: "" },
    Spec { name: "fastmcp4-sse", kind: Kind::FastMcp, transport: "sse", venv: "fastmcp4", path: "/sse/" },
    Spec { name: "fastmcp4-http", kind: Kind::FastMcp, transport: "http", venv: "fastmcp4", path: "/sse/" },
    Spec { name: "fastmcp2-sse", kind: Kind::FastMcp, transport: "sse", venv: "fastmcp2", path: "/sse/" },
    Spec { name: "testkit-sse", kind: Kind::Testkit, transport: "sse", venv: "", path: "/sse" },
    Spec { name: "testkit-http", kind: Kind::Testkit, transport: "http", venv: "", path: "/mcp" },
];

/// One process with both transports, at `/mcp` and `/sse`; no part of the matrix.
pub(crate) const PINGING: Spec =
    Spec { name: "pinging", kind: Kind::Pinging, transport: "http", venv: "", path: "/mcp" };

/// The backends of the eras besides those of the matrix: what each official SDK serves. One that speaks both eras is there
/// twice, so that what either has seen is of one of them.
#[rustfmt::skip]
pub(crate) const SDKS: [Spec; 8] = [
    Spec { name: "mcp1-sse", kind: Kind::Mcp, transport: "sse", venv: "mcp1", path: "/sse" },
    Spec { name: "mcp1-http", kind: Kind::Mcp, transport: "http", venv: "mcp1", path: "/mcp" },
    Spec { name: "mcp2-both", kind: Kind::Mcp, transport: "http", venv: "mcp2", path: "/mcp" },
    Spec { name: "mcp2-modern", kind: Kind::Mcp, transport: "http", venv: "mcp2", path: "/mcp" },
    Spec { name: "ts2-both", kind: Kind::TypeScript { strict: false }, transport: "http", venv: "", path: "/mcp" },
    Spec { name: "ts2-strict", kind: Kind::TypeScript { strict: true }, transport: "http", venv: "", path: "/mcp" },
    Spec { name: "rmcp3-both", kind: Kind::Rmcp, transport: "http", venv: "", path: "/mcp" },
    Spec { name: "rmcp3-modern", kind: Kind::Rmcp, transport: "http", venv: "", path: "/mcp" },
];

/// The FastMCP backend of the scenario and the restarts, over one transport.
pub(crate) fn fastmcp(transport: &str) -> Spec {
    if transport == "sse" { ALL[3] } else { ALL[4] }
}

/// Program and arguments of our FastMCP server, without a port.
pub(crate) fn fastmcp_command(venv: &str, transport: &str) -> Vec<String> {
    python_command(venv, "fastmcp_server.py", transport)
}

fn python_command(venv: &str, script: &str, transport: &str) -> Vec<String> {
    let script = paths::sdk().join("servers").join(script);
    let words = [&paths::python(venv), &script].map(|path| path.display().to_string());
    let [python, script] = words;
    [python.as_str(), "-W", "ignore", script.as_str(), "--transport", transport].map(str::to_owned).to_vec()
}

/// A backend that runs.
#[derive(Debug)]
pub(crate) struct Backend {
    /// What it was started from.
    pub(crate) spec: Spec,
    /// Where it listens.
    pub(crate) port: u16,
    /// None for a program of the gateway's.
    service: Option<Service>,
}

impl Spec {
    /// Starts it and waits until it accepts.
    ///
    /// # Errors
    /// When it is not ready within a minute.
    pub(crate) fn start(self) -> Result<Backend> {
        if self.transport == "stdio" {
            return Ok(Backend { spec: self, port: 0, service: None });
        }
        let job = match self.kind {
            Kind::FastMcp => {
                let command = fastmcp_command(self.venv, self.transport);
                Job::new(&command[0]).args(&command[1..])
            }
            Kind::Everything => everything(self.transport),
            Kind::Testkit => Job::new(paths::built("backend")),
            Kind::Pinging => node("pinging.mjs"),
            Kind::Mcp => {
                let command = python_command(self.venv, "mcp_server.py", self.transport);
                Job::new(&command[0]).args(&command[1..]).env("PYTHONDONTWRITEBYTECODE", "1")
            }
            Kind::TypeScript { strict } => node("server.mjs").args(strict.then_some("--strict")),
            Kind::Rmcp => Job::new(paths::rmcp()).args(["serve"]),
        };
        let service = job.service(&format!("backend-{}", self.name))?;
        let port = service.ready()?;
        Ok(Backend { spec: self, port, service: Some(service) })
    }
}

impl Backend {
    /// Its MCP URL.
    pub(crate) fn url(&self) -> String {
        self.at(self.spec.path)
    }

    /// The URL of another of its paths.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Its table in the configuration of the gateway, as a shared one.
    pub(crate) fn table(&self) -> String {
        format!("{}mode = \"shared\"\n", self.reached())
    }

    /// The lines of that table that say where it is.
    pub(crate) fn reached(&self) -> String {
        match self.service {
            Some(_) => reached_at(&self.url()),
            // It never answers a cancelled call, which has the turn to write until the grace is over.
            None => format!("{}cancel_grace = \"1s\"\n", program("server-everything", &["stdio"])),
        }
    }

    /// Whether it still runs, as far as that is ours to know.
    pub(crate) fn alive(&mut self) -> bool {
        self.service.as_mut().is_none_or(Service::alive)
    }

    /// What a server of ours counted of something, `None` for other backends.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn seen(&self, what: &str) -> Result<Option<u64>> {
        if matches!(self.spec.kind, Kind::Everything | Kind::Testkit) {
            return Ok(None);
        }
        let (_, body) = http::get(self.port, "/stats")?;
        let stats: serde_json::Value = serde_json::from_str(&body)?;
        Ok(Some(stats["seen"][what].as_u64().unwrap_or(0)))
    }
}

/// The table of one of the reference servers, started by the gateway.
pub(crate) fn program(server: &str, args: &[&str]) -> String {
    let path = format!("node_modules/@modelcontextprotocol/{server}/dist/index.js");
    let path = paths::deps().join("node").join(path).display().to_string();
    let args: Vec<String> = [path.as_str()].iter().chain(args).map(|arg| format!("{arg:?}")).collect();
    format!("command = \"node\"\nargs = [{}]\n", args.join(", "))
}

/// The line for a server at this URL.
pub(crate) fn reached_at(url: &str) -> String {
    format!("url = \"{url}\"\n")
}

/// One of our servers over a TypeScript SDK.
fn node(script: &str) -> Job {
    Job::new("node").args([paths::deps().join("node").join(script).display().to_string()])
}

fn everything(transport: &str) -> Job {
    let command = everything_command(transport);
    Job::new(&command[0]).args(&command[1..]).env("PORT", "0")
}

/// Program and arguments of server-everything, which listens on the port of the variable `PORT`.
pub(crate) fn everything_command(transport: &str) -> Vec<String> {
    let modules = paths::deps().join("node");
    let server = modules.join("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    let preload = modules.join("loopback.cjs");
    let words = [&preload, &server].map(|path| path.display().to_string());
    let kind = if transport == "sse" { "sse" } else { "streamableHttp" };
    ["node", "-r", &words[0], &words[1], kind].map(str::to_owned).to_vec()
}
