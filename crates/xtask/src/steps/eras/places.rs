//! The columns: real backends, how the gateway is told to speak to them, and what they have seen of it.
//!
//! The subtle thing: a backend that asks stands in the gateway twice, since agents that are asked must not share its
//! sessions; both entries lead to the same process, so what it counted is of both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::harness::gateway::Gateway;
use crate::harness::report::Tally;
use crate::real::backends::{self, Backend, Kind, Spec};
use crate::real::cells::Cell;
use crate::steps::eras::Part;
use crate::steps::eras::agents::Agent;

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Its name in the table, and in the gateway for the agents that are not asked.
    pub(crate) name: &'static str,
    /// Its `era` key.
    era: &'static str,
    /// What it is to be spoken to in.
    speaks: &'static str,
    /// Whether it has a tool that asks, and can.
    asks: bool,
    /// Whether it ends a call that is cancelled; what the SDK serves without sessions does not hear of it.
    cancels: bool,
}

/// Every column, in the order of the table.
#[rustfmt::skip]
pub(crate) const ALL: [Place; 11] = [
    Place { name: "mcp1-sse", era: "auto", speaks: "legacy", asks: true, cancels: true },
    Place { name: "mcp1-http", era: "auto", speaks: "legacy", asks: true, cancels: true },
    Place { name: "mcp2-both", era: "auto", speaks: "legacy", asks: true, cancels: true },
    Place { name: "mcp2-modern", era: "modern", speaks: "modern", asks: true, cancels: true },
    Place { name: "fastmcp4-http", era: "auto", speaks: "legacy", asks: true, cancels: true },
    Place { name: "ts2-both", era: "auto", speaks: "legacy", asks: false, cancels: false },
    Place { name: "ts2-strict", era: "auto", speaks: "modern", asks: true, cancels: true },
    Place { name: "rmcp3-both", era: "auto", speaks: "legacy", asks: true, cancels: true },
    Place { name: "rmcp3-modern", era: "modern", speaks: "modern", asks: true, cancels: true },
    Place { name: "everything-sse", era: "auto", speaks: "legacy", asks: true, cancels: false },
    Place { name: "everything-http", era: "auto", speaks: "legacy", asks: true, cancels: false },
];

/// The backends that run.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) running: Vec<(&'static Place, Backend)>,
}

impl Places {
    /// Starts those that are wanted.
    ///
    /// # Errors
    /// When one does not start.
    pub(crate) fn start(wanted: impl Fn((usize, &Place)) -> bool) -> Result<Self> {
        let places = (0..).zip(&ALL).filter(|place| wanted(*place));
        let running = places.map(|(_, place)| Ok((place, place.spec()?.start()?)));
        Ok(Self { running: running.collect::<Result<_>>()? })
    }

    /// What the gateway is told of them.
    pub(crate) fn tables(&self) -> Vec<(String, String)> {
        self.running.iter().flat_map(|(place, backend)| place.tables(backend)).collect()
    }
}

impl Place {
    fn spec(&self) -> Result<Spec> {
        let mut every = backends::SDKS.into_iter().chain(backends::ALL);
        every.find(|spec| spec.name == self.name).with_context(|| format!("no backend {}", self.name))
    }

    /// Whether a pair is a cell of a part: questions within the legacy era are the business of `asked`.
    pub(crate) fn takes(&self, part: Part, agent: &Agent) -> bool {
        part == Part::Calls || (self.asks && (agent.is_modern() || self.speaks == "modern"))
    }

    /// The cell of a part.
    pub(crate) fn cell(&self, part: Part) -> Cell {
        let everything = self.name.starts_with("everything");
        let kind = if everything { Kind::Everything } else { Kind::FastMcp }.name();
        let backend = if part == Part::Calls { self.name.to_owned() } else { self.asking() };
        Cell { backend, kind, expect: "answered" }
    }

    fn asking(&self) -> String {
        format!("{}-asks", self.name)
    }

    fn tables(&self, backend: &Backend) -> Vec<(String, String)> {
        let reached = format!("{}era = \"{}\"\n", backend.reached(), self.era);
        // What has sessions says by itself nothing of whether they may be shared.
        let (shared, asks) = match self.speaks {
            "legacy" => ("mode = \"shared\"\n", "mode = \"exclusive\"\nreset_on_release = true\n"),
            _ => ("", ""),
        };
        let mut tables = vec![(self.name.to_owned(), format!("{reached}{shared}"))];
        if self.asks {
            tables.push((self.asking(), format!("{reached}{asks}")));
        }
        tables
    }

    /// What was spoken to it, by the gateway, and whether that and what it counted by itself is as it should be.
    ///
    /// # Errors
    /// When the gateway or the backend does not answer.
    pub(crate) fn look(&self, backend: &mut Backend, gateway: &Gateway) -> Result<(Tally, String)> {
        let name = self.name;
        let is = |era| {
            gateway.metric("mcpool_backend_info", &[("backend", name), ("era", era)]).is_ok_and(|n| n > 0)
        };
        let spoken: Vec<&str> = ["legacy", "modern", "unknown"].into_iter().filter(|era| is(era)).collect();
        let mut tally = Tally::check(spoken == [self.speaks], || format!("{name}: spoken to in {spoken:?}"));
        tally.add(Tally::check(backend.alive(), || format!("{name}: the backend has ended")));
        if !matches!(backend.spec.kind, Kind::Everything | Kind::FastMcp) {
            let counted = |what| Ok::<u64, anyhow::Error>(backend.seen(what)?.unwrap_or(0));
            let (legacy, modern) = (counted("legacy")?, counted("modern")?);
            let (of_it, other) = if self.speaks == "legacy" { (legacy, modern) } else { (modern, legacy) };
            println!("   {name}: {legacy} calls of the legacy era, {modern} of the modern one");
            tally.add(Tally::check(of_it > 0 && other == 0, || {
                format!("{name}: {legacy} calls of the legacy era, {modern} of the modern one")
            }));
        }
        if self.cancels {
            tally.add(cancelled(name, backend)?);
        }
        Ok((tally, spoken.join("+")))
    }
}

/// That every call that was cancelled here was cancelled there, at the latest some seconds after the last one.
fn cancelled(name: &str, backend: &Backend) -> Result<Tally> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let (started, cancelled) = (backend.seen("slow_started")?, backend.seen("slow_cancelled")?);
        if started == cancelled || Instant::now() > limit {
            return Ok(Tally::check(started == cancelled, || {
                format!("{name}: {cancelled:?} calls cancelled of {started:?} started")
            }));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
