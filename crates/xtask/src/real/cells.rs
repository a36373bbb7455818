//! Drivers that go through a list of cells: one process per client and transport, one check per cell.
//!
//! The subtle thing: starting a real SDK takes longer than a cell does, so a driver is started once for many cells,
//! and several clients run side by side; the cells of one driver follow each other.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::harness::report::Tally;
use crate::harness::run::Job;

/// One URL for the agents of a driver, and what they must find there.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// Name of the backend in the gateway, which also names the cell.
    pub(crate) backend: String,
    /// Which tools it has, for drivers that know several sets.
    pub(crate) kind: &'static str,
    /// What must happen, in the driver's words.
    pub(crate) expect: &'static str,
}

/// One run of a driver.
#[derive(Debug)]
pub(crate) struct Drive<'a> {
    /// For the table and the log: client and transport.
    pub(crate) name: String,
    /// What the agents speak: `sse` or `http`.
    pub(crate) transport: &'static str,
    /// Its cells, in order.
    pub(crate) cells: &'a [Cell],
    /// What the driver must report of each cell.
    pub(crate) checks: &'static [&'static str],
    /// The whole run.
    pub(crate) limit: Duration,
}

impl Drive<'_> {
    /// Runs a driver that was given its client, at the gateway on this port; one check per cell.
    pub(crate) fn run(&self, job: Job, port: u16) -> Tally {
        let began = Instant::now();
        let tally = self.reports(job, port).map_or_else(
            |error| Tally::fault(format!("{}: {error:#}", self.name)),
            |said| {
                let mut tally = Tally::default();
                self.cells.iter().for_each(|cell| tally.add(self.judge(cell, &said)));
                tally
            },
        );
        self.show(&tally, began);
        tally
    }

    /// One line for the terminal.
    pub(crate) fn show(&self, tally: &Tally, began: Instant) {
        let (passed, failed, took) = (tally.passed, tally.failed, began.elapsed().as_secs_f64());
        println!("   {:<28} {passed:>3} cells ok, {failed} failed {took:>6.1} s", self.name);
    }

    /// Every line a driver has reported.
    ///
    /// # Errors
    /// When it does not start, is silent for too long, or failed without having said why.
    pub(crate) fn reports(&self, job: Job, port: u16) -> Result<Vec<Value>> {
        let path = if self.transport == "sse" { "sse" } else { "mcp" };
        let told = self.cells.iter().map(|cell| {
            let url = format!("http://127.0.0.1:{port}/{}/{path}", cell.backend);
            json!({"name": cell.backend, "kind": cell.kind, "expect": cell.expect, "url": url})
        });
        let told = Value::from_iter(told).to_string();
        let job = job.args(["--transport", self.transport, "--cells", &told]);
        let mut driver = job.service(&format!("drive-{}", self.name.replace('/', "-")))?;
        let limit = Instant::now() + self.limit;
        let mut said = Vec::new();
        while let Some(line) = driver.line(limit.saturating_duration_since(Instant::now()))? {
            said.extend(serde_json::from_str::<Value>(&line));
        }
        let success = driver.end(Duration::from_secs(10))?;
        if !success && said.iter().all(|line| line["ok"] == true) {
            bail!("the driver failed; {}", driver.last_words());
        }
        Ok(said)
    }

    /// A cell has passed when each of its checks was reported, and reported as passed.
    fn judge(&self, cell: &Cell, said: &[Value]) -> Tally {
        let faults = self.faults(cell, said);
        Tally::check(faults.is_empty(), || format!("{}/{}: {}", self.name, cell.backend, faults.join("; ")))
    }

    /// What is wrong with a cell: a check that failed, or was not reported.
    pub(crate) fn faults(&self, cell: &Cell, said: &[Value]) -> Vec<String> {
        let mut faults = Vec::new();
        for check in self.checks {
            let mut lines =
                said.iter().filter(|line| line["cell"] == *cell.backend && line["check"] == *check);
            match lines.next() {
                Some(line) if line["ok"] == true => {}
                Some(line) => {
                    faults.push(format!("{check}: {}", line["detail"].as_str().unwrap_or_default()))
                }
                None => faults.push(format!("{check}: no report")),
            }
        }
        faults
    }
}
