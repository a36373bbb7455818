//! The three reference clients: one process each, which goes to many servers, some of them at a time.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::real::driver::{self, Client};

/// The reference clients, by their names in the table of drivers.
const NAMES: [&str; 3] = ["py-mcp-1", "py-mcp-2", "ts-sdk-1"];
/// Servers a client is at, at the same time.
const AT_ONCE: &str = "20";

/// What each client said of each target, by the target's id.
pub(super) type Reports = BTreeMap<String, Value>;

/// The reference clients.
pub(super) fn all() -> impl Iterator<Item = &'static Client> {
    driver::ALL.iter().filter(|client| NAMES.contains(&client.name))
}

/// Sends every client to its targets; all clients run at the same time.
///
/// # Errors
/// When a client does not start, or ends before it has been everywhere.
pub(super) fn send(
    lot: &str,
    targets: &BTreeMap<&'static str, Vec<Value>>,
    limit: Duration,
) -> Result<Reports> {
    let outcomes: Vec<Result<Reports>> = std::thread::scope(|scope| {
        let running: Vec<_> = all()
            .filter_map(|client| targets.get(client.name).map(|own| (client, own)))
            .map(|(client, own)| scope.spawn(move || one(lot, client, own, limit)))
            .collect();
        running.into_iter().map(|client| client.join().unwrap_or_else(|_| Ok(Reports::new()))).collect()
    });
    let mut reports = Reports::new();
    for outcome in outcomes {
        reports.extend(outcome?);
    }
    Ok(reports)
}

fn one(lot: &str, client: &Client, targets: &[Value], limit: Duration) -> Result<Reports> {
    let job = client.driver("field").args(["--at-once", AT_ONCE]);
    let mut service = job.service(&format!("field-{lot}-{}", client.name))?;
    let mut stdin = service.stdin.take().context("its standard input")?;
    for target in targets {
        writeln!(stdin, "{target}")?;
    }
    // The end of the list.
    drop(stdin);
    let (began, until) = (Instant::now(), Instant::now() + limit);
    let mut reports = Reports::new();
    while reports.len() < targets.len() {
        let Some(line) = service.line(until.saturating_duration_since(Instant::now()))? else { break };
        let Ok(report) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(id) = report["id"].as_str() {
            reports.insert(id.to_owned(), report);
        }
    }
    let (had, took) = (reports.len(), began.elapsed().as_secs_f64());
    println!("   lot {lot:<6} {:<10} {had} of {} targets {took:>6.1} s", client.name, targets.len());
    Ok(reports)
}
