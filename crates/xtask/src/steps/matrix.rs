//! The matrix: every real client, over both transports, against every real backend, through one gateway.
//!
//! The subtle thing: beside the cells it counts two things at the backends themselves: that they saw fewer
//! `initialize` than there were agents, and that a cancelled call was really cancelled there.

use anyhow::{Result, bail};
use clap::Args;

use crate::harness::gateway::{self, Gateway};
use crate::harness::report::Tally;
use crate::real::backends::{self, Backend, Kind, Spec};
use crate::real::cell::{Cell, Shown, Way};
use crate::real::driver;

/// Agents of one cell: more than `shared_sessions` is by default, so that sharing shows.
const AGENTS: u32 = 12;
/// The bundled demo backend's name in the gateway.
const DEMO: &str = "demo";

/// Which cells.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only cells whose name (client/transport/backend) contains this; may be given more than once.
    #[arg(long)]
    cell: Vec<String>,
    /// Names the cells and ends.
    #[arg(long)]
    pub(crate) list: bool,
    /// Agents of one cell.
    #[arg(long)]
    agents: Option<u32>,
    /// Without the gateway: each client against the backends of its transport, for comparison.
    #[arg(long)]
    direct: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.cell.is_empty() || self.cell.iter().any(|part| name.contains(part.as_str()))
    }

    /// The cells of one backend that are wanted.
    fn cells<'a>(&self, backend: &'a str, kind: Kind) -> Vec<Cell<'a>> {
        let agents = self.agents.unwrap_or(AGENTS);
        let every = driver::ALL.iter().flat_map(|client| {
            ["sse", "http"].map(|transport| Cell { client, transport, backend, kind, agents })
        });
        every.filter(|cell| self.wants(&cell.name())).collect()
    }
}

/// The names of the wanted cells.
pub(crate) fn names(options: &Options) -> Vec<String> {
    let backends = backends::ALL.iter().map(|spec| (spec.name, spec.kind));
    let all = backends.chain([(DEMO, Kind::Testkit)]);
    all.flat_map(|(name, kind)| options.cells(name, kind)).map(|cell| cell.name()).collect()
}

/// Runs the matrix; one check per cell and backend count.
///
/// # Errors
/// When a backend or the gateway does not start, or no cell was asked for.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let wanted: Vec<Spec> =
        backends::ALL.into_iter().filter(|spec| !options.cells(spec.name, spec.kind).is_empty()).collect();
    let demo = options.cells(DEMO, Kind::Testkit);
    if wanted.is_empty() && demo.is_empty() {
        bail!("no cell has such a name; `cargo xtask matrix --list` names them");
    }
    let mut tally = Tally::default();
    if !wanted.is_empty() {
        tally.add(real(options, &wanted)?);
    }
    if !demo.is_empty() && !options.direct {
        let gateway = Gateway::demo("gateway-demo")?;
        demo.iter().for_each(|cell| tally.add(show(cell, &cell.run(Way::Gateway(&gateway)))));
    }
    Ok(tally)
}

fn real(options: &Options, wanted: &[Spec]) -> Result<Tally> {
    let mut running = wanted.iter().map(|spec| spec.start()).collect::<Result<Vec<Backend>>>()?;
    if options.direct {
        return Ok(direct(options, &running));
    }
    let gateway = Gateway::tables("gateway-matrix", &gateway::tables(&running))?;
    let mut tally = Tally::default();
    for backend in &mut running {
        let cells = options.cells(backend.spec.name, backend.spec.kind);
        for cell in &cells {
            tally.add(show(cell, &cell.run(Way::Gateway(&gateway))));
        }
        let agents: u64 = cells.iter().map(|cell| u64::from(cell.agents)).sum();
        tally.add(at_backend(backend, &gateway, agents).unwrap_or_else(|e| Tally::fault(format!("{e:#}"))));
    }
    Ok(tally)
}

fn direct(options: &Options, running: &[Backend]) -> Tally {
    let mut tally = Tally::default();
    for backend in running {
        let cells = options.cells(backend.spec.name, backend.spec.kind).into_iter();
        for cell in cells.filter(|cell| cell.transport == backend.spec.transport) {
            tally.add(show(&cell, &cell.run(Way::Direct(&backend.url()))));
        }
    }
    tally
}

/// One line of the table.
fn show(cell: &Cell<'_>, shown: &Shown) -> Tally {
    let word = if shown.failures.is_empty() { "ok" } else { "FAILED" };
    let (name, agents, sessions) = (cell.name(), cell.agents, shown.sessions);
    let took = shown.took.as_secs_f64();
    println!("   {name:<40} {agents:>3} agents {sessions:>3} sessions {took:>6.1} s  {word}");
    for failure in &shown.failures {
        println!("       {failure}");
    }
    Tally::check(shown.failures.is_empty(), || format!("{name}: {}", shown.failures.join("; ")))
}

/// What the backend itself has seen of all its cells.
fn at_backend(backend: &mut Backend, gateway: &Gateway, agents: u64) -> Result<Tally> {
    let name = backend.spec.name;
    if !backend.alive() {
        return Ok(Tally::fault(format!("{name}: the backend has ended")));
    }
    let opened = gateway.opened(name)?;
    println!("   {name}: {opened} sessions opened for {agents} agents");
    let mut tally = Tally::check(opened > 0 && opened < agents, || {
        format!("{name}: {opened} sessions opened for {agents} agents")
    });
    if let Some(initialized) = backend.seen("initialize")? {
        tally.add(Tally::check(initialized > 0 && initialized < agents, || {
            format!("{name}: saw {initialized} initialize of {agents} agents")
        }));
        let (started, cancelled) = (backend.seen("slow_started")?, backend.seen("slow_cancelled")?);
        tally.add(Tally::check(started > Some(0) && started == cancelled, || {
            format!("{name}: {cancelled:?} calls cancelled of {started:?} started")
        }));
    }
    Ok(tally)
}
