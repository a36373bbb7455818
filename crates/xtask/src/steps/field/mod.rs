//! The field laboratory: servers that speak as real ones do, and the reference clients at each, directly and through
//! the gateway.
//!
//! The subtle thing: what a client can do directly is measured in the same run, so no row says what must succeed; the
//! rule is that the gateway costs nobody a server. Where a client fails directly, it may do better through the gateway.

mod agents;
mod clients;
mod dialect;
mod judge;
mod logs;
mod servers;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::harness::gateway::Gateway;
use crate::harness::report::Tally;
use crate::harness::rotation::Turn;
use crate::steps::field::clients::Reports;
use crate::steps::field::dialect::Dialect;
pub(crate) use crate::steps::field::dialect::all as dialects;
use crate::steps::field::judge::Cell;
use crate::steps::field::logs::Logs;
pub(crate) use crate::steps::field::servers::{Servers, backend};

/// All of it.
const LIMIT: Duration = Duration::from_secs(1200);
/// Dialects before one gateway.
const LOT: usize = 120;
/// What the dialects without an oddity are called, which are in both halves.
const SOUND: &str = "sound";
/// What `--dialect` says for the raw agents.
const AGENT: &str = "agent-";
/// Seconds a client waits for any one step.
const PATIENCE: u32 = 20;

/// Which of it.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only dialects whose name contains this; `agent-PART`: only raw agents whose name contains PART.
    #[arg(long)]
    dialect: Option<String>,
    /// Only one half of them: `A` or `B`.
    #[arg(long)]
    half: Option<String>,
    /// Names them, with what they do, and ends.
    #[arg(long)]
    pub(crate) list: bool,
    /// Takes the gateway as it was built last.
    #[arg(long)]
    pub(crate) built: bool,
    /// The half whose turn it is with the commit that is checked out.
    #[arg(skip)]
    turn: bool,
}

impl Options {
    /// The form the gate runs.
    pub(crate) fn short() -> Self {
        Self { turn: true, ..Self::default() }
    }

    fn half(&self) -> Result<Option<Turn>> {
        Ok(match self.half.as_deref() {
            Some("A" | "a") => Some(Turn { parts: 2, part: 0 }),
            Some("B" | "b") => Some(Turn { parts: 2, part: 1 }),
            Some(other) => bail!("no half {other}; there are A and B"),
            None => self.turn.then(|| Turn::of_commit(2)),
        })
    }
}

/// The dialects that were asked for; those without an oddity are in both halves.
fn chosen(options: &Options) -> Result<Vec<Dialect>> {
    let half = options.half()?;
    let part = options.dialect.as_deref();
    let wanted = |(place, dialect): &(usize, Dialect)| match part {
        Some(part) if part.starts_with(AGENT) => dialect.name.starts_with(SOUND),
        _ if half.is_some_and(|half| !half.has(*place)) => dialect.name.starts_with(SOUND) && part.is_none(),
        _ => part.is_none_or(|part| dialect.name.contains(part)),
    };
    let dialects: Vec<_> =
        dialect::all()?.into_iter().enumerate().filter(wanted).map(|(_, dialect)| dialect).collect();
    if dialects.is_empty() {
        bail!("no dialect has such a name");
    }
    Ok(dialects)
}

/// Names the dialects.
///
/// # Errors
/// When the table cannot be read.
pub(crate) fn names(options: &Options) -> Result<()> {
    for dialect in chosen(options)? {
        let of = |key: &str| dialect.value[key].as_str().unwrap_or_default().to_owned();
        println!("{:<48} {:<6} {}  [{}]", dialect.name, dialect.transport, of("says"), of("source"));
    }
    Ok(())
}

/// Runs the laboratory: one check per cell, one per dialect and mode for what the server and the log say, and one per
/// raw agent.
///
/// # Errors
/// When the servers, the gateway or a client do not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let dialects = chosen(options)?;
    let (sound, odd): (Vec<_>, Vec<_>) = dialects.into_iter().partition(|one| one.name.starts_with(SOUND));
    let (mut tally, mut figures) = (Tally::default(), Figures::default());
    if !sound.is_empty() {
        let only = options.dialect.as_deref().and_then(|part| part.strip_prefix(AGENT));
        tally.add(lot("sound", &sound, &mut figures, Some(only.unwrap_or_default()))?);
    }
    for (number, dialects) in odd.chunks(LOT).enumerate() {
        tally.add(lot(&format!("{}", number + 1), dialects, &mut figures, None)?);
    }
    println!("   {figures}");
    Ok(tally)
}

/// Some dialects with a server and a gateway of their own.
fn lot(name: &str, dialects: &[Dialect], figures: &mut Figures, agents: Option<&str>) -> Result<Tally> {
    let servers = Servers::start(name, dialects)?;
    let gateway = servers.gateway(dialects)?;
    let mut tally = Tally::default();
    if let Some(only) = agents {
        tally.add(agents::run(&servers, &gateway, only)?);
    }
    let reports = clients::send(name, &targets(dialects, &servers, &gateway), LIMIT)?;
    let ledgers = servers.ledgers(dialects)?;
    drop(gateway);
    let logs = Logs::read(&servers.log_file())?;
    tally.add(judged(dialects, &reports, &ledgers, &logs, figures));
    Ok(tally)
}

/// Where each client goes: to each dialect directly, and through the gateway in each of its modes.
fn targets(dialects: &[Dialect], servers: &Servers, gateway: &Gateway) -> BTreeMap<&'static str, Vec<Value>> {
    let mut targets: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
    for (row, dialect) in dialects.iter().enumerate() {
        for (column, client) in clients::all().enumerate() {
            let own = targets.entry(client.name).or_default();
            let world = format!("direct-{}", client.name);
            let mut direct = target(dialect, client.name, "direct");
            direct["transport"] = json!(dialect.transport);
            if dialect.transport == "stdio" {
                direct["command"] = json!(servers.command(dialect, &world));
            } else {
                direct["url"] = json!(servers.url(dialect, &world));
            }
            own.push(direct);
            for (place, mode) in dialect.modes.iter().enumerate() {
                // Both of the gateway's own transports take turns, unless a client cannot do it over one of them.
                let over_sse = (row + column + place).is_multiple_of(3) && dialect.value["front"] != "http";
                let (transport, path) = if over_sse { ("sse", "sse") } else { ("http", "mcp") };
                let mut through = target(dialect, client.name, mode);
                through["transport"] = json!(transport);
                through["url"] = json!(gateway.url(&backend(dialect, mode), path));
                own.push(through);
            }
        }
    }
    targets
}

fn target(dialect: &Dialect, client: &str, way: &str) -> Value {
    json!({"id": id(dialect, client, way), "ask": dialect.value["ask"], "patience": PATIENCE})
}

fn id(dialect: &Dialect, client: &str, way: &str) -> String {
    format!("{way}/{}/{client}", dialect.name)
}

fn judged(
    dialects: &[Dialect],
    reports: &Reports,
    ledgers: &Value,
    logs: &Logs,
    figures: &mut Figures,
) -> Tally {
    let mut tally = Tally::default();
    for dialect in dialects {
        figures.dialects += 1;
        for mode in &dialect.modes {
            let ledger = &ledgers[format!("{mode}/{}", dialect.name)];
            for client in clients::all() {
                let report = |way: &str| reports.get(&id(dialect, client.name, way));
                let (direct, through) = (report("direct"), report(mode));
                let verdict = Cell { dialect, direct, through, ledger }.judge();
                figures.cells += 1;
                figures.better += u64::from(verdict.better);
                figures.open += u64::from(direct.is_some_and(|report| report["handshake"].is_null()));
                tally.add(Tally::check(verdict.faults.is_empty(), || {
                    format!("{}/{mode}/{}: {}", dialect.name, client.name, verdict.faults.join("; "))
                }));
            }
            let mut faults = bounded(dialect, ledger);
            faults.extend(logs.faults(&backend(dialect, mode), &dialect.value));
            tally.add(Tally::check(faults.is_empty(), || {
                format!("{}/{mode}: {}", dialect.name, faults.join("; "))
            }));
        }
    }
    tally
}

/// What was seen, besides what failed.
#[derive(Debug, Default)]
struct Figures {
    dialects: u64,
    cells: u64,
    open: u64,
    better: u64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dialects, cells, open, better } = self;
        write!(
            f,
            "{dialects} dialects, {cells} cells, {open} open directly, {better} better through the gateway"
        )
    }
}

/// What the server has counted, against what the row allows.
fn bounded(dialect: &Dialect, ledger: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for (key, table, per) in [("max", "counts", "in all"), ("peak", "peaks", "in a second")] {
        for (on, most) in dialect.value[key].as_object().into_iter().flatten() {
            let had = ledger[table][on].as_u64().unwrap_or(0);
            if had > most.as_u64().unwrap_or(0) {
                faults.push(format!("{had} times {on} {per}, at most {most}"));
            }
        }
    }
    let notes: std::collections::BTreeSet<&str> =
        ledger["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    faults.extend(notes.into_iter().take(3).map(|note| format!("the server says: {note}")));
    faults
}
