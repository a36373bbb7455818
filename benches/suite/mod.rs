//! What is measured, in which order, and against which bars.
//!
//! Every comparison is interleaved: each round runs all programs once, every other round backwards, ratios are taken
//! within a round and the median of the rounds is reported. Drift of the machine then hits all alike.

mod big;
mod idle;
mod open_loop;
mod per_call;
mod reuse;
mod rig;
mod stateless;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    load::{self, Drive, Front, Outcome, Plan},
    machine,
    report::{self, Report},
};
use rig::{Rig, Via};

/// The command line of `bench`.
#[derive(Clone, Debug, clap::Parser)]
#[command(about = "Measures mcpool beside direct calls, a bare pass-through and an id splice.")]
pub struct Options {
    /// A minute or so: one agent count, two short rounds.
    #[arg(long)]
    pub quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Rounds of each comparison [default: 5; 2 with --quick].
    #[arg(long)]
    pub pairs: Option<usize>,
    /// Measured seconds of each run [default: 2; 0.7 with --quick].
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Numbers of agents of session-reuse [default: 1,16,64,256; 64 with --quick].
    #[arg(long, value_delimiter = ',')]
    pub agents: Vec<usize>,
    /// The gateway to measure [default: the `mcpool` beside this program].
    #[arg(long)]
    pub mcpool: Option<PathBuf>,
    /// Measure only what mcpool is compared with.
    #[arg(long, conflicts_with = "mcpool")]
    pub without_mcpool: bool,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1)]
    pub load_threads: usize,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench/result.json")]
    pub json: PathBuf,
    /// Fail unless every bar is met.
    #[arg(long)]
    pub check: bool,
}

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Agents initialise once and call in a closed loop.
    Reuse,
    /// Each call has its own session.
    PerCall,
    /// Memory of idle agents.
    Idle,
    /// Latency at a fixed rate.
    OpenLoop,
    /// A large result beside small calls.
    Big,
    /// Callers without handshake beside agents with one.
    Stateless,
}

/// The options with their defaults filled in.
#[derive(Debug)]
struct Settings {
    parts: Vec<Part>,
    quick: bool,
    pairs: usize,
    measured: Duration,
    agents: Vec<usize>,
    mcpool: Option<PathBuf>,
    /// Where configurations and logs of the measured gateways go.
    folder: PathBuf,
}

/// Runs the suite.
///
/// # Errors
/// When a program cannot be run, when a call had a wrong answer or none, or, with `--check`, when a bar is not met.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let settings = Settings::of(options)?;
    std::fs::create_dir_all(&settings.folder)?;
    let (machine, conditions) = (machine::describe(), conditions(options, &settings));
    report::say(&format!("machine: {machine}\nconditions: {conditions}\n"))?;
    let mut report = Report::default();
    for part in &settings.parts {
        match part {
            Part::Reuse => reuse::measure(&settings, &mut report).await?,
            Part::PerCall => per_call::measure(&settings, &mut report).await?,
            Part::Idle => idle::measure(&settings, &mut report).await?,
            Part::OpenLoop => open_loop::measure(&settings, &mut report).await?,
            Part::Big => big::measure(&settings, &mut report).await?,
            Part::Stateless => stateless::measure(&settings, &mut report).await?,
        }
    }
    report.conclude()?;
    let written = serde_json::to_vec_pretty(&report.to_json(&machine, &conditions))?;
    std::fs::write(&options.json, written)
        .with_context(|| format!("cannot write {}", options.json.display()))?;
    report::say(&format!("written to {}\n", options.json.display()))?;
    anyhow::ensure!(report.is_clean(), "some calls had a wrong answer or none");
    anyhow::ensure!(!options.check || report.meets_its_bars(), "some bars are not met");
    Ok(())
}

impl Settings {
    fn of(options: &Options) -> anyhow::Result<Self> {
        let all = [Part::Reuse, Part::PerCall, Part::Stateless, Part::OpenLoop, Part::Idle, Part::Big];
        let quick = options.quick;
        let agents = match (options.agents.is_empty(), quick) {
            (false, _) => options.agents.clone(),
            (true, true) => vec![64],
            (true, false) => vec![1, 16, 64, 256],
        };
        let seconds = options.seconds.unwrap_or(if quick { 0.7 } else { 2.0 });
        anyhow::ensure!(seconds > 0.0 && seconds < 600.0, "--seconds must be above 0 and below 600");
        anyhow::ensure!(agents.iter().all(|&n| (1..=4096).contains(&n)), "--agents must be 1 to 4096 each");
        let mcpool = match (&options.mcpool, options.without_mcpool) {
            (_, true) => None,
            (Some(path), false) => Some(path.clone()),
            (None, false) => Some(std::env::current_exe()?.with_file_name("mcpool")),
        };
        if let Some(path) = &mcpool {
            anyhow::ensure!(
                path.exists(),
                "there is no {}: build it, or name it by --mcpool",
                path.display()
            );
        }
        let parts: Vec<_> =
            all.into_iter().filter(|part| options.only.is_empty() || options.only.contains(part)).collect();
        let folder = options.json.parent().map(PathBuf::from).unwrap_or_default();
        Ok(Self {
            parts,
            quick,
            pairs: options.pairs.unwrap_or(if quick { 2 } else { 5 }).max(1),
            measured: Duration::from_secs_f64(seconds),
            agents,
            mcpool,
            folder,
        })
    }

    fn has_mcpool(&self) -> bool {
        self.mcpool.is_some()
    }

    /// A plan against a program of the rig, with a warm-up.
    fn plan(&self, rig: &Rig, via: Via, front: Front, agents: usize, drive: Drive) -> anyhow::Result<Plan> {
        let warmup = (self.measured / 4).min(Duration::from_millis(500));
        Ok(Plan { target: rig.target(via, front)?, agents, drive, warmup, measured: self.measured })
    }
}

fn conditions(options: &Options, settings: &Settings) -> Value {
    json!({
        "rounds": settings.pairs,
        "seconds": settings.measured.as_secs_f64(),
        "load_generator_threads": options.load_threads.max(1),
        "worker_threads": { "backend": 2, "passthrough": 2, "splice": 2, "mcpool": "its default" },
        "mcpool": settings.mcpool.as_ref().map(|path| path.display().to_string()),
        "network": "loopback, one machine; every program is a process of its own and shares its cores",
        "per_call": "new connections for every session; closed afterwards",
        "cpu": "user and system time of the process in the measured window",
    })
}

/// Runs every variant once per round, every other round backwards: `[variant][round]`.
async fn interleave(
    settings: &Settings,
    rig: &Rig,
    variants: &[(Via, Plan)],
    report: &mut Report,
) -> anyhow::Result<Vec<Vec<Outcome>>> {
    let mut outcomes: Vec<Vec<Outcome>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..settings.pairs {
        let mut order: Vec<usize> = (0..variants.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (via, plan) = &variants[index];
            let what = format!(
                "{} {} agents={}",
                via.name(plan.target.front),
                plan.target.front.as_str(),
                plan.agents
            );
            let outcome = load::run(plan, &rig.meters(*via)).await.with_context(|| what.clone())?;
            report.count(&outcome.tally, &what);
            outcomes[index].push(outcome);
        }
    }
    Ok(outcomes)
}

/// The median over the rounds of one figure.
fn middle(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    report::median(outcomes.iter().map(figure))
}

/// The median over the rounds of a figure made of two outcomes of the same round.
fn paired(a: &[Outcome], b: &[Outcome], figure: impl Fn(&Outcome, &Outcome) -> f64) -> f64 {
    report::median(a.iter().zip(b).map(|(a, b)| figure(a, b)))
}

/// A quantile of the latency in milliseconds.
fn quantile_ms(outcome: &Outcome, q: f64) -> f64 {
    outcome.tally.latency.quantile(q).as_secs_f64() * 1e3
}

/// The figures of one variant as JSON.
fn record(scenario: &str, via: &str, plan: &Plan, outcomes: &[Outcome]) -> Value {
    let sum = |figure: fn(&Outcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    json!({
        "scenario": scenario,
        "front": plan.target.front.as_str(),
        "via": via,
        "agents": plan.agents,
        "throughput": middle(outcomes, Outcome::throughput),
        "p50_ms": middle(outcomes, |o| quantile_ms(o, 0.5)),
        "p99_ms": middle(outcomes, |o| quantile_ms(o, 0.99)),
        "p999_ms": middle(outcomes, |o| quantile_ms(o, 0.999)),
        "gateway_cpu_s_per_1000": middle(outcomes, |o| o.cpu_per_1000(1).unwrap_or(f64::NAN)),
        "backend_cpu_s_per_1000": middle(outcomes, |o| o.cpu_per_1000(0).unwrap_or(f64::NAN)),
        "throughput_rounds": outcomes.iter().map(Outcome::throughput).collect::<Vec<_>>(),
        "answered": sum(|o| o.tally.answered),
        "wrong": sum(|o| o.tally.wrong),
        "failed": sum(|o| o.tally.failed),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn settings(arguments: &[&str]) -> anyhow::Result<Settings> {
        let all = ["bench", "--without-mcpool"].iter().chain(arguments);
        Settings::of(&Options::try_parse_from(all)?)
    }

    #[test]
    fn defaults_and_quick_fill_in_what_was_not_said() {
        let full = settings(&[]).unwrap();
        assert_eq!((full.pairs, full.agents.as_slice(), full.parts.len()), (5, &[1, 16, 64, 256][..], 6));
        let quick = settings(&["--quick", "--pairs", "3", "--only", "reuse,per-call"]).unwrap();
        assert_eq!((quick.pairs, quick.agents.as_slice()), (3, &[64][..]));
        assert_eq!(quick.parts, [Part::Reuse, Part::PerCall]);
    }

    #[test]
    fn senseless_options_are_refused() {
        for arguments in [&["--seconds", "0"][..], &["--agents", "0"], &["--only", "lunch"]] {
            assert!(settings(arguments).is_err(), "{arguments:?}");
        }
    }
}
