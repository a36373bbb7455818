//! The rows: each real client in each of its modes of finding out the era, over each transport it has.

use serde_json::Value;

use crate::real::cells::Cell;
use crate::real::driver::{self, Client};

/// The revision without handshake; every other one is of the legacy era.
const MODERN: &str = "2026-07-28";

/// One row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agent {
    pub(crate) client: &'static Client,
    /// `auto`, `legacy` or `modern`.
    pub(crate) mode: &'static str,
    /// `sse` or `http`.
    pub(crate) transport: &'static str,
}

const fn agent(client: &'static Client, mode: &'static str, transport: &'static str) -> Agent {
    Agent { client, mode, transport }
}

const MCP1: &Client = &driver::ALL[0];
const MCP2: &Client = &driver::ALL[1];
const FASTMCP: &Client = &driver::ALL[2];
const SDK1: &Client = &driver::ALL[3];
const CLIENT2: &Client = &driver::ALL[4];
const RMCP: &Client = &driver::RMCP;

/// Every row, in the order of the table. Over HTTP+SSE 2026-07-28 is not spoken, so who insists on it is no row.
pub(crate) const AGENTS: [Agent; 21] = [
    agent(MCP1, "legacy", "sse"),
    agent(MCP1, "legacy", "http"),
    agent(MCP2, "auto", "sse"),
    agent(MCP2, "legacy", "sse"),
    agent(MCP2, "auto", "http"),
    agent(MCP2, "legacy", "http"),
    agent(MCP2, "modern", "http"),
    agent(FASTMCP, "auto", "sse"),
    agent(FASTMCP, "auto", "http"),
    agent(FASTMCP, "legacy", "http"),
    agent(FASTMCP, "modern", "http"),
    agent(SDK1, "legacy", "sse"),
    agent(SDK1, "legacy", "http"),
    agent(CLIENT2, "auto", "sse"),
    agent(CLIENT2, "legacy", "sse"),
    agent(CLIENT2, "auto", "http"),
    agent(CLIENT2, "legacy", "http"),
    agent(CLIENT2, "modern", "http"),
    agent(RMCP, "auto", "http"),
    agent(RMCP, "legacy", "http"),
    agent(RMCP, "modern", "http"),
];

impl Agent {
    /// Its name in the table.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.client.name, self.way())
    }

    /// Mode and transport.
    pub(crate) fn way(&self) -> String {
        format!("{} {}", self.mode, self.transport)
    }

    /// Whether it speaks 2026-07-28: who asks does where it is spoken, which is over Streamable HTTP.
    pub(crate) fn is_modern(&self) -> bool {
        self.mode == "modern" || (self.mode == "auto" && self.transport == "http")
    }

    /// What the table says of a cell, or what is wrong with it.
    pub(crate) fn judge(&self, cell: &Cell, said: &[Value], faults: Vec<String>) -> Result<String, String> {
        if !faults.is_empty() {
            return Err(faults.join("; "));
        }
        let mut of = said.iter().filter(|line| line["cell"] == *cell.backend && line["check"] == "handshake");
        let spoken = of.next().map_or(&Value::Null, |line| &line["spoken"]);
        let revisions: Vec<&str> =
            spoken.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let is_modern = |revision: &&str| *revision == MODERN;
        match revisions.as_slice() {
            [revision] if is_modern(revision) == self.is_modern() => {
                Ok(if is_modern(revision) { "modern" } else { "legacy" }.to_owned())
            }
            other => Err(format!("its agents speak {other:?}")),
        }
    }
}
