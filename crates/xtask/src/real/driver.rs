//! The real clients: which program drives which SDK, and how it is called.

use crate::harness::paths;
use crate::harness::run::Job;

/// One real client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// What the driver calls it.
    flag: &'static str,
    sdk: Sdk,
}

/// What a client is written in, which says where its drivers are.
#[derive(Debug, Clone, Copy)]
enum Sdk {
    /// With its virtual environment.
    Python(&'static str),
    TypeScript,
    Rust,
}

/// Every client of the matrix.
pub(crate) const ALL: [Client; 5] = [
    Client { name: "py-mcp-1", flag: "mcp1", sdk: Sdk::Python("mcp1") },
    Client { name: "py-mcp-2", flag: "mcp2", sdk: Sdk::Python("mcp2") },
    Client { name: "py-fastmcp-4", flag: "fastmcp", sdk: Sdk::Python("fastmcp4") },
    Client { name: "ts-sdk-1", flag: "sdk1", sdk: Sdk::TypeScript },
    Client { name: "ts-client-2", flag: "client2", sdk: Sdk::TypeScript },
];

/// The official Rust SDK, which is built for the eras alone.
pub(crate) const RMCP: Client = Client { name: "rmcp-3", flag: "rmcp", sdk: Sdk::Rust };

impl Client {
    /// The driver of one cell, without its arguments for the cell.
    pub(crate) fn cell(&self) -> Job {
        self.driver("cell")
    }

    /// A driver by the name of its script, without more arguments than the client.
    pub(crate) fn driver(&self, script: &str) -> Job {
        let job = match self.sdk {
            Sdk::Python(venv) => python(venv, &format!("{script}.py")),
            Sdk::TypeScript => {
                let script = paths::deps().join("node").join(format!("{script}.mjs"));
                Job::new("node").args([script.display().to_string()])
            }
            Sdk::Rust => Job::new(paths::rmcp()).args([script]),
        };
        job.args(["--client", self.flag])
    }
}

/// One of the Python drivers in a virtual environment.
pub(crate) fn python(venv: &str, script: &str) -> Job {
    let script = paths::sdk().join("drivers").join(script).display().to_string();
    Job::new(paths::python(venv)).args(["-W", "ignore", script.as_str()]).env("PYTHONDONTWRITEBYTECODE", "1")
}
