//! The official conformance suites: against our own fixture, which has everything they ask for (`fixture.rs`), against
//! server-everything directly and through a pinned mcpool, and their client scenarios with mcpool as the client
//! (`client.rs`).
//!
//! The subtle thing: server-everything is no conformance server, it lacks most of the tools the suites call. So the
//! measure is the comparison: what passes directly passes through the gateway, no check fails that did not fail
//! directly, and what fails through the gateway is exactly the list in `tests/conformance`, which may only shrink.

mod client;
mod fixture;
mod results;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::harness::gateway::{Entry, Gateway};
use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::{Ended, Job};
use crate::real::backends;
use crate::steps::conformance::results::Results;

/// The server of the comparison.
const SERVER: &str = "everything-http";

/// One run of one release.
#[derive(Debug)]
struct Suite {
    /// Its name in the table and in the list of expected failures.
    name: &'static str,
    /// Folder of the release among the modules.
    package: &'static str,
    /// The revision it runs at, where it takes one.
    revision: Option<&'static str>,
}

const SUITES: [Suite; 3] = [
    Suite { name: "0.1.16", package: "conformance-0.1", revision: None },
    Suite { name: "0.2.0-alpha.12@2025-11-25", package: "conformance-0.2", revision: Some("2025-11-25") },
    Suite { name: "0.2.0-alpha.12@2025-06-18", package: "conformance-0.2", revision: Some("2025-06-18") },
];

/// Which of it.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only suites whose name contains this.
    #[arg(long)]
    suite: Option<String>,
    /// Lists the checks that fail through the gateway, too.
    #[arg(long)]
    verbose: bool,
}

impl Options {
    fn takes(&self, name: &str) -> bool {
        self.suite.as_deref().is_none_or(|wanted| name.contains(wanted))
    }
}

/// Runs the suites; one check per scenario.
///
/// # Errors
/// When the server, the gateway or a suite does not start, or the list of expected failures cannot be read.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let mut tally = fixture::run(options)?;
    tally.add(client::run(options)?);
    tally.add(everything(options)?);
    Ok(tally)
}

/// The comparison over server-everything.
fn everything(options: &Options) -> Result<Tally> {
    let suites: Vec<&Suite> = SUITES.iter().filter(|suite| options.takes(suite.name)).collect();
    if suites.is_empty() {
        return Ok(Tally::default());
    }
    let expected = expectations()?;
    let spec = backends::ALL.into_iter().find(|spec| spec.name == SERVER).context("the server's name")?;
    let server = spec.start()?;
    let entry = Entry { name: "everything".to_owned(), reached: server.reached(), mode: "pinned" };
    let gateway = Gateway::with("gateway-conformance", &[entry])?;
    let through = format!("http://127.0.0.1:{}/mcp", gateway.port);
    let mut tally = Tally::default();
    for suite in suites {
        let began = Instant::now();
        let direct = suite.run("direct", &server.url())?;
        let gated = suite.run("mcpool", &through)?;
        let took = began.elapsed().as_secs_f64();
        println!("   {:<28} directly {direct}, through mcpool {gated} ({took:.0} s)", suite.name);
        gated.differences(&direct).iter().for_each(|line| println!("       {line}"));
        if options.verbose {
            gated.failing().iter().for_each(|line| println!("       fails: {line}"));
        }
        tally.add(judge(suite, &direct, &gated, &expected[suite.name])?);
    }
    Ok(tally)
}

/// One check per scenario that was run directly, and one for the list of expected failures.
fn judge(suite: &Suite, direct: &Results, gated: &Results, expected: &Value) -> Result<Tally> {
    let listed = expected["failing"].as_array().context("a list of failing scenarios")?;
    let listed: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let mut tally = Tally::default();
    for name in direct.names() {
        let fault = gated.worse_than(direct, name).or_else(|| gated.surprise(name, listed.contains(name)));
        tally.add(Tally::check(fault.is_none(), || {
            format!("{}: {name} {}", suite.name, fault.unwrap_or_default())
        }));
    }
    let unknown: Vec<&&str> =
        listed.iter().filter(|name| !direct.names().any(|known| known == **name)).collect();
    let (count, scenarios) = (direct.names().count() as u64, expected["scenarios"].as_u64());
    tally.add(Tally::check(unknown.is_empty() && scenarios == Some(count), || {
        format!(
            "{}: {count} scenarios of {scenarios:?} were run; unknown in the list: {unknown:?}",
            suite.name
        )
    }));
    Ok(tally)
}

impl Suite {
    fn run(&self, way: &str, url: &str) -> Result<Results> {
        let mut args = vec!["--suite", "all"];
        args.extend(self.revision.iter().flat_map(|revision| ["--spec-version", revision]));
        // Its status says only that something failed, which is the normal case here.
        let name = format!("conformance-{}-{way}", self.name);
        Ok(perform(self.package, &name, &["server", "--url", url], &args)?.1)
    }
}

/// Runs one release; `side` says which side is looked at, and where it is.
fn perform(package: &str, name: &str, side: &[&str], args: &[&str]) -> Result<(Ended, Results)> {
    let folder = paths::logs().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let words = [program(package), folder.clone()].map(|path| path.display().to_string());
    let job = Job::new(paths::node22()).args([&words[0]]).args(side);
    let job = job.args(["--output-dir", &words[1]]).args(args).within(Duration::from_secs(240));
    let ended = job.logged(name)?;
    if ended.timed_out {
        bail!("{name} ran out of time");
    }
    let results = Results::read(&ended.output, &folder).with_context(|| name.to_owned())?;
    Ok((ended, results))
}

/// What has to come of a run whose expected failures the suite itself looks after.
struct Bar<'a> {
    name: &'a str,
    /// Where its expected failures are listed.
    expected: &'a str,
    /// Checks that have to pass at least.
    least: u32,
}

impl Bar<'_> {
    fn judge(&self, options: &Options, began: Instant, (ended, results): (&Ended, &Results)) -> Tally {
        println!("   {:<34} {results} ({:.0} s)", self.name, began.elapsed().as_secs_f64());
        let failing = results.failing();
        if options.verbose {
            failing.iter().for_each(|line| println!("       fails: {line}"));
        }
        let mut tally = Tally { passed: results.good() as u64, ..Tally::default() };
        tally.add(Tally::check(ended.success, || {
            format!("{}: not what {} expects: {}", self.name, self.expected, failing.join("; "))
        }));
        let (passed, _) = results.checks();
        tally.add(Tally::check(passed >= self.least, || {
            format!("{}: {passed} checks passed, {} have to", self.name, self.least)
        }));
        tally
    }
}

fn program(package: &str) -> PathBuf {
    paths::deps().join("conformance/node_modules").join(package).join("dist/index.js")
}

fn expectations() -> Result<Value> {
    let file = paths::root().join("tests/conformance/server-everything.json");
    let text = fs::read_to_string(&file).with_context(|| shown(&file))?;
    serde_json::from_str(&text).with_context(|| shown(&file))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
