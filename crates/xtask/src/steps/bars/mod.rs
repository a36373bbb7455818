//! The bars: what the gateway promises about load, faults and operations, each tried at its full size on the release
//! binary with raw agents and raw servers.
//!
//! The subtle thing: bars run one after the other, so that none measures another's load, and each has a time of its own
//! after which nothing in it waits any longer.

mod agent;
mod answers;
mod churn;
mod clock;
mod connections;
mod dialects;
mod drain;
mod hangup;
mod limits;
mod program;
mod proxies;
mod reload;
mod server;
mod together;
mod tokens;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::Job;

/// Which of them, and on which program.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only these bars, such as `E1 G4` (see --list).
    names: Vec<String>,
    /// Names the bars, with what each must reach, and ends.
    #[arg(long)]
    list: bool,
    /// Takes the release binary as it was built last.
    #[arg(long)]
    built: bool,
    /// Takes this program for the gateway.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Serves MCP over standard input and output; a bar starts itself so.
    #[arg(long, hide = true)]
    stdio_server: bool,
}

/// What a bar came to.
#[derive(Debug)]
struct Outcome {
    /// What was measured, in words with numbers.
    figure: String,
    /// Whether that is within the bound.
    ok: bool,
}

impl Outcome {
    fn new(ok: bool, figure: impl Into<String>) -> Self {
        Self { figure: figure.into(), ok }
    }
}

/// One promise.
struct Bar {
    name: &'static str,
    /// What is tried.
    what: &'static str,
    /// What must be reached.
    bound: &'static str,
    /// Seconds it may take in all.
    seconds: u64,
    run: fn() -> Result<Outcome>,
}

/// All of them, in the order they run in.
const ALL: [Bar; 17] = [
    Bar {
        name: "A1",
        what: "a tool's own error under an HTTP status, with our id or null, shared and pinned",
        bound: "ran once, at most 1 session more, the agent reads the tool's words, its other call is answered",
        seconds: 120,
        run: answers::errors_under_a_status,
    },
    Bar {
        name: "B2",
        what: "1,000 requests with the session's token, another or none, over both transports, across a restart",
        bound: "the backend sees no token but that of the request; the session's own token is always served",
        seconds: 120,
        run: tokens::each_request_its_own,
    },
    Bar {
        name: "B4",
        what: "15 good tokens beside 2 bad ones that keep coming back",
        bound: "all 15 served within 1 s; no refusal of one token is shown to another or on a page",
        seconds: 60,
        run: tokens::bad_beside_good,
    },
    Bar {
        name: "C",
        what: "servers with the oddities of real ones (rows C1 to C17), directly and through the gateway",
        bound: "ready through the gateway within 1 s more than directly",
        seconds: 420,
        run: dialects::ready_as_soon,
    },
    Bar {
        name: "E1",
        what: "25,000 initialize on one connection, with limits.agent_sessions = 20000",
        bound: "0 refused while idle sessions can give way",
        seconds: 120,
        run: limits::more_sessions_than_places,
    },
    Bar {
        name: "E3",
        what: "three floods of 1,100 connections to the admin listener: silent, half a header, idle",
        bound: "/livez p99 below 50 ms in each",
        seconds: 120,
        run: connections::admin_floods,
    },
    Bar {
        name: "E4",
        what: "a backend that answers a call with endless HTTP/1.1 103",
        bound: "pings of another backend's agents p99 below 20 ms",
        seconds: 60,
        run: connections::endless_interim_answers,
    },
    Bar {
        name: "E5",
        what: "unknown methods pipelined on one connection as fast as it goes",
        bound: "below 50 KB/s of log",
        seconds: 60,
        run: limits::unknown_methods,
    },
    Bar {
        name: "E13",
        what: "8 backends at rest",
        bound: "fewer than 2,000 samples on /metrics, and promtool finds nothing",
        seconds: 60,
        run: limits::metrics_at_rest,
    },
    Bar {
        name: "G1",
        what: "the configuration file truncated and written back 100 times, at once and after 1.2 s, under load",
        bound: "0 failed calls",
        seconds: 180,
        run: reload::truncated_file,
    },
    Bar {
        name: "G2",
        what: "60 s calls with progress across max_age, reconnect, a changed table and a rename, on 3 transports",
        bound: "every call is answered with its result",
        seconds: 120,
        run: churn::long_calls,
    },
    Bar {
        name: "G4",
        what: "SIGTERM with 200 calls running, 200 waiting and 20 elicitations open",
        bound: "all answered: results within grace, waiting calls at once, cut calls with executed and a log line",
        seconds: 120,
        run: drain::shutdown_under_calls,
    },
    Bar {
        name: "G7",
        what: "600 agents on 1,024 descriptors, three rounds",
        bound: "0 incidents, no call lost, the admin listener answers throughout",
        seconds: 180,
        run: connections::few_descriptors,
    },
    Bar {
        name: "G7R",
        what: "the same with connections that use up what is kept for agents",
        bound: "connections beyond the reserve get 503; 0 incidents, the admin listener answers throughout",
        seconds: 180,
        run: connections::no_descriptors,
    },
    Bar {
        name: "H1",
        what: "1,000 POSTs of HTTP+SSE calls, closed or half-closed after the last byte",
        bound: "each ran once and was answered on its stream",
        seconds: 120,
        run: hangup::closed_after_the_last_byte,
    },
    Bar {
        name: "H1S",
        what: "cancellations and answers that close at once, Streamable calls that half-close",
        bound: "all arrive, and each half-closed call reads its result",
        seconds: 60,
        run: hangup::streamable,
    },
    Bar {
        name: "H2",
        what: "a call that is silent for 90 s, through nginx and HAProxy with timeouts of 60 s",
        bound: "answered through each",
        seconds: 180,
        run: proxies::silent_call,
    },
];

/// What comes before the bars.
///
/// # Errors
/// When the binary cannot be built.
pub(crate) fn build(options: &Options) -> Result<Tally> {
    let release = paths::target().join("release").join("mcpool");
    if !options.built && options.binary.is_none() {
        let job = Job::new("cargo").args(["build", "--release", "-p", "mcpool"]);
        job.env("CARGO_TERM_COLOR", "never")
            .within(Duration::from_secs(3600))
            .logged("build-release")?
            .ok()?;
    }
    let program = options.binary.clone().unwrap_or(release);
    if !program.is_file() {
        bail!("there is no program {}; leave out --built to build it", program.display());
    }
    paths::choose_gateway(program.canonicalize()?);
    Ok(Tally::one())
}

/// What needs no gateway: the list, and the part of a server. Whether that was asked for.
///
/// # Errors
/// When standard input cannot be read.
pub(crate) fn aside(options: &Options) -> Result<bool> {
    if options.stdio_server {
        program::serve()?;
    } else if options.list {
        for Bar { name, what, bound, .. } in &ALL {
            println!("{name:<4} {what}\n     {bound}");
        }
    }
    Ok(options.stdio_server || options.list)
}

/// Runs the bars that were asked for, or all; one check each.
///
/// # Errors
/// When a name is unknown.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let is = |bar: &Bar, name: &String| bar.name.eq_ignore_ascii_case(name);
    if let Some(unknown) = options.names.iter().find(|name| !ALL.iter().any(|bar| is(bar, name))) {
        bail!("no bar {unknown}; `cargo xtask bars --list` names them");
    }
    let mut tally = Tally::default();
    for bar in
        ALL.iter().filter(|bar| options.names.is_empty() || options.names.iter().any(|name| is(bar, name)))
    {
        tally.add(bar.check());
    }
    Ok(tally)
}

impl Bar {
    fn check(&self) -> Tally {
        let Self { name, what, bound, seconds, run } = self;
        println!("   {name}: {what}");
        clock::begin(Duration::from_secs(*seconds));
        let began = Instant::now();
        let outcome = run().unwrap_or_else(|error| Outcome::new(false, format!("{error:#}")));
        let (word, figure) = (if outcome.ok { "ok" } else { "FAILED" }, outcome.figure);
        println!("     {figure}; bound: {bound}; {:.0} s; {word}", began.elapsed().as_secs_f64());
        Tally::check(outcome.ok, || format!("{name}: {figure}; bound: {bound}"))
    }
}
