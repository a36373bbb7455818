//! What a call costs: the user-space instructions of the gateway per call over each transport, beside those of a bare
//! HTTP pass-through.
//!
//! The subtle thing: instructions, unlike time, are the same on a busy machine. callgrind counts them in the code of a
//! release; the program has one worker thread, and four agents always have a call waiting for it.

mod callgrind;
mod known;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::harness::report::Tally;
use crate::harness::run::{Job, Service};
use crate::harness::{http, paths, setup};
use callgrind::{Counted, Functions};
use known::Known;

/// How transports are called in the file, the path of each at the backend, and the words for the load program.
const TRANSPORTS: [(&str, &str, &[&str]); 2] = [("streamable", "/mcp", &[]), ("sse", "/sse", &["--sse"])];
/// What is built: the two programs that are counted, their load and its backend.
const PROGRAMS: [&str; 4] = ["mcpool", "passthrough", "calls", "backend"];
/// Agents that call at the same time.
const AGENTS: u64 = 4;
/// Calls of each agent before anything is counted.
const WARM_UP: u64 = 100;
/// What is counted in a part must be answered within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much, and what of it is shown.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Counted calls of each of the four agents.
    #[arg(long, default_value_t = 500)]
    calls: u64,
    /// Functions that are listed.
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// Takes the programs as they were built last.
    #[arg(long)]
    built: bool,
    /// Writes what was counted to `benches/cost.toml`.
    #[arg(long)]
    write: bool,
}

/// What one call needs.
#[derive(Debug)]
struct Cost {
    all: u64,
    functions: Functions,
}

impl Cost {
    fn per_call(mut functions: Functions, calls: u64) -> Self {
        let all = functions.values().sum::<u64>() / calls;
        functions.values_mut().for_each(|count| *count /= calls);
        Self { all, functions }
    }
}

/// What comes first: valgrind, and the programs with the names of their functions.
///
/// # Errors
/// When one of them cannot be had.
pub(crate) fn prepare(options: &Options) -> Result<Tally> {
    setup::valgrind()?;
    if !options.built {
        // All in one command, so that they share their dependencies.
        let packages = ["build", "--profile", "cost", "-p", "mcpool", "-p", "mcpool-benches"];
        let job = Job::new("cargo").args(packages).args(PROGRAMS.iter().flat_map(|name| ["--bin", name]));
        job.env("CARGO_TERM_COLOR", "never").within(Duration::from_secs(3600)).logged("build-cost")?.ok()?;
    }
    Ok(Tally::one())
}

/// Both, as the gate does.
///
/// # Errors
/// Those of the two.
pub(crate) fn gate() -> Result<Tally> {
    let options = Options { calls: 500, top: 5, built: false, write: false };
    let mut tally = prepare(&options)?;
    tally.add(run(&options)?);
    Ok(tally)
}

/// Counts, prints, and compares with the file; one check per transport.
///
/// # Errors
/// When a program cannot be run, a call fails, or the file cannot be read.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    ensure!(options.calls > 0, "--calls must be above 0");
    let backend = Job::new(program("backend")).service("cost-backend")?;
    let port = backend.ready()?;
    let mcpool = through_mcpool(port, options.calls)?;
    let passthrough = through_passthrough(port, options.calls)?;
    let mut known = Known::read()?;
    let mut tally = Tally::default();
    for (((transport, ..), mcpool), passthrough) in TRANSPORTS.iter().zip(&mcpool).zip(&passthrough) {
        println!("   {transport}: mcpool {}, pass-through {}", mcpool.all, passthrough.all);
        for (what, cost) in [("mcpool", mcpool), ("pass-through", passthrough)] {
            println!("     {what}, the {} functions that need most:", options.top);
            list(cost, options.top);
        }
        if options.write {
            known.take(transport, mcpool, passthrough.all);
        }
        tally.add(judge(&known, transport, mcpool, passthrough)?);
    }
    if options.write {
        known.write()?;
    }
    Ok(tally)
}

fn list(cost: &Cost, top: usize) {
    let mut functions: Vec<_> = cost.functions.iter().collect();
    functions.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (name, count) in functions.into_iter().take(top) {
        println!("     {count:>7} {:>3} % {name}", count * 100 / cost.all);
    }
}

fn judge(known: &Known, transport: &str, mcpool: &Cost, passthrough: &Cost) -> Result<Tally> {
    let (figure, most, bare) = known.figures(transport)?;
    println!("     file: mcpool {figure}, at most {most}, pass-through {bare}");
    Ok(Tally::check(mcpool.all <= most, || {
        let grown = known.grown(transport, &mcpool.functions).into_iter().take(8);
        let grown: Vec<_> = grown.map(|(name, before, now)| format!("{before} -> {now} {name}")).collect();
        format!(
            "{transport}: {} instructions per call, at most {most} (file {figure}; pass-through {}, file {bare})\n     {}",
            mcpool.all,
            passthrough.all,
            grown.join("\n     ")
        )
    }))
}

fn through_mcpool(backend: u16, calls: u64) -> Result<Vec<Cost>> {
    let (port, admin) = (http::free_port()?, http::free_port()?);
    let mut config = format!("listen = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin}\"\n");
    for (transport, path, _) in TRANSPORTS {
        let kind = if path == "/sse" { "sse" } else { "http" };
        config += &format!(
            "[backends.over-{transport}]\nurl = \"http://127.0.0.1:{backend}{path}\"\ntransport = \"{kind}\"\nmode = \"shared\"\n"
        );
    }
    std::fs::create_dir_all(paths::logs())?;
    let file = paths::logs().join("cost-mcpool.toml");
    std::fs::write(&file, config)?;
    let mut mcpool = Counted::start(
        "cost-mcpool",
        &program("mcpool"),
        &["serve", "--config", &file.display().to_string()],
    )?;
    let until = Instant::now() + PATIENCE;
    while !matches!(http::get(admin, "/readyz"), Ok((200, _))) {
        if Instant::now() > until || !mcpool.service.alive() {
            bail!("the gateway is not ready; {}", mcpool.service.last_words());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let costs = costs(&mut mcpool, port, |transport, path| format!("/over-{transport}{path}"), calls)?;
    mcpool.end()?;
    Ok(costs)
}

fn through_passthrough(backend: u16, calls: u64) -> Result<Vec<Cost>> {
    let to = format!("127.0.0.1:{backend}");
    let args = ["--to", &to, "--threads", "1"];
    let mut passthrough = Counted::start("cost-passthrough", &program("passthrough"), &args)?;
    let port = passthrough.service.ready()?;
    let costs = costs(&mut passthrough, port, |_, path| path.to_owned(), calls)?;
    passthrough.end()?;
    Ok(costs)
}

/// What a call through this program costs over each transport.
fn costs(
    counted: &mut Counted,
    port: u16,
    path: impl Fn(&str, &str) -> String,
    calls: u64,
) -> Result<Vec<Cost>> {
    let costs = TRANSPORTS.iter().map(|(transport, at, words)| {
        let mut load = Load::open(port, &path(transport, at), words)?;
        load.calls(WARM_UP)?;
        counted.dump()?;
        load.calls(calls)?;
        Ok(Cost::per_call(counted.dump()?, calls * AGENTS))
    });
    costs.collect()
}

/// The load program with its agents.
struct Load(Service);

impl Load {
    fn open(port: u16, path: &str, words: &[&str]) -> Result<Self> {
        let (to, agents) = (format!("127.0.0.1:{port}"), AGENTS.to_string());
        let args = ["--to", &to, "--path", path, "--agents", &agents];
        let load = Self(Job::new(program("calls")).args(args).args(words).service("cost-calls")?);
        load.expect("open")?;
        Ok(load)
    }

    /// Lets each agent make so many calls.
    fn calls(&mut self, calls: u64) -> Result<()> {
        use std::io::Write as _;
        let input = self.0.stdin.as_mut().context("the load program has no input")?;
        writeln!(input, "{calls}")?;
        self.expect("done")
    }

    fn expect(&self, word: &str) -> Result<()> {
        match self.0.line(PATIENCE)? {
            Some(line) if line == word => Ok(()),
            _ => bail!("the load program did not say {word:?}; {}", self.0.last_words()),
        }
    }
}

/// A program with the names of its functions.
fn program(name: &str) -> PathBuf {
    paths::target().join("cost").join(name)
}
