//! The steps of the gate: set-up, one build of everything, then the steps in the order of how soon each can say no.
//!
//! The subtle thing: the numbers of a test runner are read from what it prints; a runner whose numbers cannot
//! be read, or are zero, has failed even when its status is zero.

pub(crate) mod alerts;
pub(crate) mod asked;
pub(crate) mod bars;
pub(crate) mod conformance;
pub(crate) mod cost;
pub(crate) mod deploy;
pub(crate) mod eras;
pub(crate) mod field;
pub(crate) mod fuzz;
pub(crate) mod large;
pub(crate) mod matrix;
pub(crate) mod reborn;
pub(crate) mod rehearse;
pub(crate) mod restarts;
pub(crate) mod scenario;
pub(crate) mod soak;
pub(crate) mod state;
pub(crate) mod stdio;
pub(crate) mod verbs;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::harness::report::{Report, Tally};
use crate::harness::run::{Ended, Job};
use crate::harness::setup;

/// One step of the gate.
#[derive(Debug)]
pub(crate) struct Step {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    /// One line for `--list`.
    pub(crate) what: &'static str,
    run: fn() -> Result<Tally>,
}

/// All steps, in order.
pub(crate) fn all() -> Vec<Step> {
    let step = |name, what, run| Step { name, what, run };
    vec![
        step("setup", "virtual environments, node modules, docker-compose and Prometheus", setup::all),
        step("fmt", "cargo fmt --check", fmt),
        step("build", "every target of the workspace, once, for all steps that follow", build),
        step("clippy", "every target of the workspace, and what ships alone, warnings denied", clippy),
        step("unit", "unit and integration tests, and the examples in the documentation", unit),
        step("interleave", "hand-overs between threads, in every order of their steps", || interleave(false)),
        step("doc", "documentation, broken links denied", doc),
        step("compose", "docker-compose.yml is valid", compose),
        step("deploy", "the manifests for Kubernetes and the unit for systemd are valid", deploy::run),
        step("alerts", "the shipped alerts by promtool, and a real Prometheus over the gateway", || {
            alerts::run(&alerts::Options::default())
        }),
        step("matrix", "real clients against real backends through the gateway", || {
            matrix::run(&matrix::Options::default())
        }),
        step("eras", "real agents and backends of every era, a third of the pairs, by commit", || {
            eras::run(&eras::Options::short())
        }),
        step(
            "field",
            "servers that speak as real ones do, directly and through (half of the dialects)",
            || field::run(&field::Options::short()),
        ),
        step("asked", "servers that ask: sampling, elicitation and roots with real clients", || {
            asked::run(&asked::Options::default())
        }),
        step("state", "real servers with state per session, and one that pings and closes", || {
            state::run(&state::Options::default())
        }),
        step("conformance", "the conformance suites, directly and through the gateway", || {
            conformance::run(&conformance::Options::default())
        }),
        step("scenario", "parallel executors, a new session each round (short form)", || {
            scenario::run(&scenario::Options::short())
        }),
        step("large", "1 and 16 MiB results beside 100 agents, real TypeScript clients", || {
            large::run(&large::Options::default())
        }),
        step("stdio", "real stdio servers: 50 agents write and read at once", || {
            stdio::run(&stdio::Options::short())
        }),
        step("rehearse", "mcpool rehearse and doctor against real servers (short form)", || {
            rehearse::run(&rehearse::Options::short())
        }),
        step("restarts", "kill -9 of real backends under 100 agents (short form)", || {
            restarts::run(&restarts::Options::short())
        }),
        step("reborn", "kill -9 of the gateway under real clients that share (short form)", || {
            reborn::run(10)
        }),
        step("soak", "load, faults, sessions born and dying, then quiet (short form)", || {
            soak::run(&soak::Options::short())
        }),
        step("zero-400", "restarts, and sessions that expire, under 200 agents (short form)", || {
            soak::run(&soak::Options::short_zero_400())
        }),
        step("verbs", "pause, restart, resume and reconnect under 200 executors (short form)", || {
            verbs::run(&verbs::Options::short())
        }),
        step("cost", "instructions per call in the code of a release, and at most how many", cost::gate),
    ]
}

/// Runs the named steps, or all; whether everything passed.
///
/// # Errors
/// When a name is unknown.
pub(crate) fn gate(only: &[String]) -> Result<bool> {
    let steps = all();
    if let Some(unknown) = only.iter().find(|name| steps.iter().all(|step| step.name != name.as_str())) {
        bail!("no step {unknown}; `cargo xtask test --list` names them");
    }
    let mut report = Report::default();
    for step in steps {
        if only.is_empty() || only.iter().any(|name| name == step.name) {
            report.step(step.name, step.run);
        }
    }
    Ok(report.finish())
}

/// The debug build of everything: the programs that other steps start, and the tests.
///
/// Cargo unites the features of what one command builds, so a build of fewer packages would compile the dependencies once
/// more, with other features.
///
/// # Errors
/// When cargo cannot be started or the build fails.
pub(crate) fn build() -> Result<Tally> {
    one(cargo("build", ["build", "--workspace", "--all-targets"])?)
}

fn fmt() -> Result<Tally> {
    one(cargo("fmt", ["fmt", "--all", "--", "--check", "--color", "never"])?)
}

/// Everything, and the gateway with the features it ships with: those of the tests would hide what it lacks.
fn clippy() -> Result<Tally> {
    let mut tally =
        one(cargo("clippy", ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?)?;
    tally.add(one(cargo("clippy-shipped", ["clippy", "-p", "mcpool", "--", "-D", "warnings"])?)?);
    Ok(tally)
}

fn doc() -> Result<Tally> {
    let job = Job::new("cargo").args(["doc", "--workspace", "--no-deps"]).env("CARGO_TERM_COLOR", "never");
    one(job.env("RUSTDOCFLAGS", "-D warnings").within(LONG).logged("doc")?)
}

fn compose() -> Result<Tally> {
    let job = Job::new("docker-compose").args(["-f", "docker-compose.yml", "config"]);
    one(job.env("MCPOOL_ADMIN_TOKEN", "only-for-this-check").logged("compose")?)
}

fn unit() -> Result<Tally> {
    let args = ["nextest", "run", "--workspace", "--no-fail-fast"];
    let mut tally = counted(&cargo("unit", args)?, nextest_counts)?;
    // nextest runs no examples of the documentation.
    tally.add(counted(
        &cargo("unit-doc", ["test", "--workspace", "--doc", "--no-fail-fast"])?,
        libtest_counts,
    )?);
    Ok(tally)
}

/// The hand-overs of the sessions under a scheduler that runs every order of their steps.
///
/// # Errors
/// When cargo cannot be started or its numbers cannot be read.
pub(crate) fn interleave(long: bool) -> Result<Tally> {
    // Of the whole workspace, so that the dependencies have the features they were built with before.
    let args = ["test", "--workspace", "--features", "mcpool-upstream/interleave", "--test", "interleave"];
    let job = Job::new("cargo").args(args).env("CARGO_TERM_COLOR", "never").within(LONG);
    let job = if long { job.env("MCPOOL_LONG", "1") } else { job };
    counted(&job.logged("interleave")?, libtest_counts)
}

/// Compiling everything on a cold machine with two cores comes first in any of these.
const LONG: Duration = Duration::from_secs(1800);

fn cargo<const N: usize>(log: &str, args: [&str; N]) -> Result<Ended> {
    Job::new("cargo").args(args).env("CARGO_TERM_COLOR", "never").within(LONG).logged(log)
}

/// A step that is one check.
fn one(ended: Ended) -> Result<Tally> {
    ended.ok()?;
    Ok(Tally::one())
}

/// A step that is as many checks as its runner says.
fn counted(ended: &Ended, counts: fn(&str) -> Option<(u64, u64)>) -> Result<Tally> {
    let Some((passed, failed)) = counts(&ended.output) else {
        ended.ok()?;
        bail!("no count of tests in its output");
    };
    let mut tally = Tally { passed, failed, ..Tally::default() };
    tally.failures.extend(failed_names(&ended.output));
    if !ended.success && failed == 0 {
        tally.add(Tally::fault(format!(
            "{:#}",
            ended.ok().err().unwrap_or_else(|| anyhow::anyhow!("failed"))
        )));
    }
    Ok(tally)
}

/// Passed and failed of nextest's summary line.
fn nextest_counts(output: &str) -> Option<(u64, u64)> {
    let line = output.lines().rev().find(|line| line.trim_start().starts_with("Summary ["))?;
    let count = |word: &str| before(line, word).unwrap_or(0);
    let passed = before(line, " passed")?;
    Some((passed, count(" failed") + count(" timed out") + count(" exec failed")))
}

/// Passed and failed, summed over the test binaries of `cargo test`.
fn libtest_counts(output: &str) -> Option<(u64, u64)> {
    let mut sum = None;
    for line in output.lines().filter(|line| line.starts_with("test result:")) {
        let (passed, failed) = sum.unwrap_or((0, 0));
        sum = Some((passed + before(line, " passed")?, failed + before(line, " failed")?));
    }
    sum
}

/// The number that stands right before a word.
fn before(line: &str, word: &str) -> Option<u64> {
    let head = &line[..line.find(word)?];
    let digits = head.rfind(|c: char| !c.is_ascii_digit()).map_or(head, |at| &head[at + 1..]);
    digits.parse().ok()
}

/// Names of failed tests, as either runner lists them.
fn failed_names(output: &str) -> Vec<String> {
    let mut names: Vec<String> = output
        .lines()
        .map(str::trim)
        .filter(|line| {
            line.starts_with("FAIL [") || line.starts_with("TIMEOUT [") || line.ends_with("... FAILED")
        })
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names.truncate(30);
    names
}

#[cfg(test)]
mod tests {
    use super::{libtest_counts, nextest_counts};

    #[test]
    fn reads_the_summary_of_nextest() {
        let text =
            "     Summary [   4.2s] 12 tests run: 9 passed (1 slow), 2 failed, 1 timed out, 3 skipped\n";
        assert_eq!(nextest_counts(text), Some((9, 3)));
        assert_eq!(nextest_counts("Summary [ 0.1s] 3 tests run: 3 passed, 0 skipped"), Some((3, 0)));
        assert_eq!(nextest_counts("error: could not compile"), None);
    }

    #[test]
    fn sums_the_results_of_cargo_test() {
        let text = "test result: ok. 5 passed; 0 failed; 0 ignored\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(libtest_counts(text), Some((6, 2)));
        assert_eq!(libtest_counts(""), None);
    }
}
