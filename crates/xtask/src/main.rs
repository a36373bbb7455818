//! `cargo xtask`: the set-up and the gate as code.
//!
//! The subtle thing: everything a step needs beyond Rust is installed into the ignored folder `.deps`, from
//! versions pinned in `tests/sdk`, so that a fresh machine and a developer's run the very same clients.
#![allow(clippy::print_stdout, reason = "this is a program for a terminal; its report is its output")]

mod harness;
mod real;
mod steps;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::harness::report::Report;
use crate::harness::run::Job;
use crate::harness::setup;
use crate::steps::{
    alerts, asked, bars, conformance, cost, eras, field, fuzz, large, matrix, rehearse, restarts, scenario,
    soak, state, stdio, verbs,
};

/// The set-up and the gate of mcpool, as code.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// The gate: installs what it needs, then runs every step; ends with `N passed, N failed`.
    Test {
        /// Only these steps, comma separated (see --list).
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Names the steps and ends.
        #[arg(long)]
        list: bool,
    },
    /// Installs what the gate needs, and nothing else.
    Setup,
    /// The shipped alerts: promtool's tests, and a real Prometheus over a real gateway.
    Alerts(alerts::Options),
    /// Real clients against real backends through the gateway.
    Matrix(matrix::Options),
    /// Real agents of every era against real backends of every era, and the table of it.
    Eras(eras::Options),
    /// Servers that speak as real ones do: the reference clients at each, directly and through the gateway.
    Field(field::Options),
    /// What is promised about load, faults and operations, each at its full size on the release binary.
    Bars(bars::Options),
    /// Servers that ask: sampling, elicitation and roots with real clients against real backends.
    Asked(asked::Options),
    /// Real servers that keep state per session, and one that pings and closes.
    State(state::Options),
    /// The official conformance suites, against our fixture and server-everything, directly and through the gateway.
    Conformance(conformance::Options),
    /// Parallel executors, a new agent session each round, against a real FastMCP backend.
    Scenario(scenario::Options),
    /// Large results over one stream of a real server, with the real TypeScript clients.
    Large(large::Options),
    /// Real stdio servers: what many agents write at once is all there afterwards.
    Stdio(stdio::Options),
    /// `mcpool rehearse` and `mcpool doctor` against real servers.
    Rehearse(rehearse::Options),
    /// `kill -9` and restart of a real backend, or of the gateway, under many agents.
    Restarts(restarts::Options),
    /// The gateway for long, under load and under faults, and whether it is afterwards as it was before.
    Soak(soak::Options),
    /// Pause, resume and reconnect of real backends under 200 executors.
    Verbs(verbs::Options),
    /// The hand-overs between threads in every order of their steps, and further than the gate goes.
    Interleave,
    /// Coverage-guided fuzzing of everything that reads what others write; needs a nightly compiler.
    Fuzz(fuzz::Options),
    /// Instructions per call, in the gateway and in a bare pass-through, against those in `benches/cost.toml`.
    Cost(cost::Options),
    /// The load comparison; arguments go to the bench program.
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed on as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does one task; whether everything in it passed.
fn perform(task: Task) -> Result<bool> {
    match task {
        Task::Test { list: true, .. } => {
            for step in steps::all() {
                println!("{:<10} {}", step.name, step.what);
            }
            Ok(true)
        }
        Task::Test { only, .. } => steps::gate(&only),
        Task::Setup => alone(|report| report.step("setup", setup::all)),
        Task::Alerts(options) => real(|report| report.step("alerts", || alerts::run(&options))),
        Task::Matrix(options) if options.list => {
            matrix::names(&options).iter().for_each(|name| println!("{name}"));
            Ok(true)
        }
        Task::Matrix(options) => real(|report| report.step("matrix", || matrix::run(&options))),
        Task::Eras(options) => real(|report| report.step("eras", || eras::run(&options))),
        Task::Field(options) if options.list => field::names(&options).map(|()| true),
        Task::Field(options) => alone(|report| {
            report.step("setup", setup::of_field);
            if !options.built {
                report.step("build", steps::build);
            }
            if report.all_passed() {
                report.step("field", || field::run(&options));
            }
        }),
        Task::Bars(options) if bars::aside(&options)? => Ok(true),
        Task::Bars(options) => alone(|report| {
            report.step("build", || bars::build(&options));
            if report.all_passed() {
                report.step("bars", || bars::run(&options));
            }
        }),
        Task::Asked(options) => real(|report| report.step("asked", || asked::run(&options))),
        Task::State(options) => real(|report| report.step("state", || state::run(&options))),
        Task::Conformance(options) => {
            real(|report| report.step("conformance", || conformance::run(&options)))
        }
        Task::Scenario(options) => real(|report| report.step("scenario", || scenario::run(&options))),
        Task::Large(options) => real(|report| report.step("large", || large::run(&options))),
        Task::Stdio(options) => real(|report| report.step("stdio", || stdio::run(&options))),
        Task::Rehearse(options) => real(|report| report.step("rehearse", || rehearse::run(&options))),
        Task::Restarts(options) => real(|report| report.step("restarts", || restarts::run(&options))),
        Task::Soak(options) => alone(|report| report.step("soak", || soak::run(&options))),
        Task::Verbs(options) => real(|report| report.step("verbs", || verbs::run(&options))),
        Task::Interleave => alone(|report| report.step("interleave", || steps::interleave(true))),
        Task::Fuzz(options) => alone(|report| report.step("fuzz", || fuzz::run(&options))),
        Task::Cost(options) => alone(|report| {
            report.step("build", || cost::prepare(&options));
            if report.all_passed() {
                report.step("cost", || cost::run(&options));
            }
        }),
        Task::Bench { args } => bench(&args),
    }
}

/// Runs something with a report of its own.
fn alone(body: impl FnOnce(&mut Report)) -> Result<bool> {
    let mut report = Report::default();
    body(&mut report);
    Ok(report.finish())
}

/// The same for what needs the real clients and the built gateway.
fn real(body: impl FnOnce(&mut Report)) -> Result<bool> {
    alone(|report| {
        report.step("setup", setup::all);
        report.step("build", steps::build);
        if report.all_passed() {
            body(report);
        }
    })
}

fn bench(args: &[String]) -> Result<bool> {
    // The program starts its siblings from its own folder, so all of them are built first.
    let packages = ["build", "--release", "-p", "mcpool", "-p", "mcpool-benches"];
    if !Job::new("cargo").args(packages).within(Duration::from_secs(3600)).attached()?.success {
        return Ok(false);
    }
    let ended = Job::new("target/release/bench").args(args).within(Duration::from_secs(3600)).attached()?;
    if ended.timed_out {
        bail!("bench did not end within an hour");
    }
    Ok(ended.success)
}
