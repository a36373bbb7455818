//! Real agents of every era against real backends of every era: which meet, and what is spoken on either side.
//!
//! The subtle thing: what an agent speaks its SDK says, what a backend is spoken to in the gateway says, and our own
//! servers have counted by themselves; a cell is good when all that was asked for happened in the era it should.
//! `crates/ERAS.md` is what was run in full, so a cell that turns out otherwise is a fault even when nothing fails.

mod agents;
mod places;
mod table;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::harness::gateway::Gateway;
use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::rotation::Turn;
use crate::harness::run::Job;
use crate::real::cells::{Cell, Drive};
use crate::steps::eras::agents::{AGENTS, Agent};
use crate::steps::eras::places::{Place, Places};
use crate::steps::eras::table::Tables;

/// Drivers at once.
const AT_ONCE: usize = 4;
/// One driver with all its cells; a step of a cell has its own, shorter limit there.
const LIMIT: Duration = Duration::from_secs(900);

/// Which of it.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only rows whose name (client, mode, transport) contains this.
    #[arg(long)]
    agent: Option<String>,
    /// Only columns whose name contains this.
    #[arg(long)]
    backend: Option<String>,
    /// Only this part: `calls` or `questions`.
    #[arg(long)]
    part: Option<String>,
    /// Writes `crates/ERAS.md` instead of comparing with it; where not everything is run, the other cells stay.
    #[arg(long)]
    table: bool,
    /// Each agent and each backend, but not each with each: the pairs whose turn it is.
    #[arg(skip)]
    turn: Option<Turn>,
}

/// What is shown of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Lists, parallel calls, progress, cancellation.
    Calls,
    /// The agent that calls is asked, and no other.
    Questions,
}

impl Options {
    /// The form the gate runs.
    pub(crate) fn short() -> Self {
        Self { turn: Some(Turn::of_commit(3)), ..Self::default() }
    }

    fn wants(&self, part: Part, (row, agent): (usize, &Agent), (column, place): (usize, &Place)) -> bool {
        let named = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|w| name.contains(w));
        named(&self.part, part.name())
            && named(&self.agent, &agent.name())
            && named(&self.backend, place.name)
            && place.takes(part, agent)
            // Every row and every column, a third of the pairs.
            && self.turn.is_none_or(|turn| turn.has(row + column))
    }

    fn is_full(&self) -> bool {
        self.turn.is_none() && self.agent.is_none() && self.backend.is_none() && self.part.is_none()
    }
}

impl Part {
    const ALL: [Self; 2] = [Self::Calls, Self::Questions];

    /// What `--part` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Questions => "questions",
        }
    }

    /// The driver's script, what it must report, and what it is told besides.
    fn script(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Calls => (
                "cell",
                &["handshake", "list", "calls", "progress", "cancel", "after-cancel", "close"],
                &["--agents", "4", "--calls", "4", "--patience", "60"],
            ),
            Self::Questions => (
                "asked",
                &["handshake", "elicitation", "close"],
                &["--agents", "8", "--calls", "2", "--checks", "elicitation", "--patience", "60"],
            ),
        }
    }
}

/// Runs what was asked for; one check per pair, some per backend, and one for the table.
///
/// # Errors
/// When a backend or the gateway does not start, or the table cannot be read or written.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    build()?;
    let mut places = Places::start(|place| {
        let wanted = |part| (0..).zip(&AGENTS).any(|(row, agent)| options.wants(part, (row, agent), place));
        Part::ALL.into_iter().any(wanted)
    })?;
    if places.running.is_empty() {
        bail!("no pair has such names");
    }
    let tables = places.tables();
    let tables: Vec<_> = tables.iter().map(|(name, lines)| (name.as_str(), lines.clone())).collect();
    let gateway = Gateway::tables("gateway-eras", &tables)?;
    let ran = Mutex::new((Tally::default(), Tables::default()));
    for part in Part::ALL {
        side_by_side(options, part, gateway.port, &ran);
    }
    let (mut tally, mut tables) = ran.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (place, backend) in &mut places.running {
        let (checks, spoken) = place.look(backend, &gateway)?;
        tally.add(checks);
        tables.header(place.name, &spoken);
    }
    tally.add(compared(options, tables)?);
    Ok(tally)
}

/// The program over the official Rust SDK.
fn build() -> Result<()> {
    let target = paths::target().join("rmcp").display().to_string();
    let args = ["build", "--locked", "--manifest-path", "tests/rmcp/Cargo.toml"];
    let job = Job::new("cargo").args(args).env("CARGO_TERM_COLOR", "never").env("CARGO_TARGET_DIR", &target);
    job.within(Duration::from_secs(1800)).logged("build-rmcp")?.ok()
}

/// All rows of a part, some drivers at a time.
fn side_by_side(options: &Options, part: Part, port: u16, ran: &Mutex<(Tally, Tables)>) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    let Some(agent) = AGENTS.get(row) else { return };
                    let (tally, cells) = drive(options, part, (row, agent), port);
                    let mut ran = ran.lock().unwrap_or_else(PoisonError::into_inner);
                    ran.0.add(tally);
                    ran.1.rows(part, agent, cells);
                }
            });
        }
    });
}

/// One row: what it came to, and what its cells say by the name of the column.
fn drive(
    options: &Options,
    part: Part,
    (row, agent): (usize, &Agent),
    port: u16,
) -> (Tally, Vec<(&'static str, String)>) {
    let places = (0..).zip(places::ALL.iter());
    let places: Vec<&Place> =
        places.filter(|place| options.wants(part, (row, agent), *place)).map(|(_, place)| place).collect();
    let mut tally = Tally::default();
    let mut texts = Vec::new();
    if places.is_empty() {
        return (tally, texts);
    }
    let cells: Vec<Cell> = places.iter().map(|place| place.cell(part)).collect();
    let (script, checks, words) = part.script();
    let name = format!("eras-{script}-{}/{}", agent.client.name, agent.way());
    let drive = Drive { name, transport: agent.transport, cells: &cells, checks, limit: LIMIT };
    let began = Instant::now();
    let job = agent.client.driver(script).args(["--mode", agent.mode]).args(words);
    let said = drive.reports(job, port);
    for (place, cell) in places.iter().zip(&cells) {
        let outcome = match &said {
            Ok(said) => agent.judge(cell, said, drive.faults(cell, said)),
            Err(error) => Err(format!("{error:#}")),
        };
        texts.push((place.name, outcome.clone().unwrap_or_else(|_| "FAILED".to_owned())));
        tally.add(Tally::check(outcome.is_ok(), || {
            format!("{}/{}: {}", drive.name, cell.backend, outcome.err().unwrap_or_default())
        }));
    }
    drive.show(&tally, began);
    tally.failures.iter().for_each(|failure| println!("       {failure}"));
    (tally, texts)
}

/// The committed table against what was run.
fn compared(options: &Options, ran: Tables) -> Result<Tally> {
    let file = committed();
    let shown = "crates/ERAS.md";
    if options.table {
        let mut known = Tables::default();
        if !options.is_full() {
            known = Tables::read(&fs::read_to_string(&file).context(shown)?);
        }
        known.overlay(ran);
        fs::write(&file, known.render()).context(shown)?;
        return Ok(Tally::one());
    }
    let text = fs::read_to_string(&file).context(shown)?;
    let other = ran.differences(&Tables::read(&text));
    let mut tally =
        Tally::check(other.is_empty(), || format!("{shown} says otherwise: {}", other.join("; ")));
    if options.is_full() {
        let same = ran.render() == text;
        tally.add(Tally::check(same, || format!("{shown} is not what was run; `cargo xtask eras --table`")));
    }
    Ok(tally)
}

fn committed() -> PathBuf {
    paths::root().join("crates").join("ERAS.md")
}
