//! The gateway for long, under load and under faults; the work is done by the `soak` program of the benches.
//!
//! The subtle thing: its checks are read from the report it writes, so the gate counts them one by one; a program that
//! ended before it wrote one has failed.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::Job;
use crate::steps;

/// What the program needs beyond its own time: starting, and waiting until everything is given back.
const BESIDES: Duration = Duration::from_secs(300);
/// A run that ends with its calls may take this long.
const FOR_CALLS: Duration = Duration::from_secs(6 * 3600);

/// How long, and how much.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// End after so many calls instead; how long that may take is bounded.
    #[arg(long)]
    calls: Option<u64>,
    /// Calls per second over all agents; 0: each agent calls as soon as it is answered.
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Agents at a time.
    #[arg(long, default_value_t = 200)]
    agents: u32,
    /// Seconds between two troubles, on average.
    #[arg(long, default_value_t = 5.0)]
    trouble: f64,
    /// No troubles but restarts of all backends every sixth time and sessions that the backends forget in between.
    #[arg(long)]
    zero_400: bool,
    /// Repeats the choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// The gateway of the release build, if there is one.
    #[arg(long)]
    release: bool,
    /// Where samples and report go, below `target`.
    #[arg(long, default_value = "soak")]
    folder: String,
}

impl Options {
    /// The form the gate runs: half a minute with a trouble every two seconds.
    pub(crate) fn short() -> Self {
        Self {
            minutes: 0.5,
            calls: None,
            rate: 400,
            agents: 200,
            trouble: 2.0,
            zero_400: false,
            seed: None,
            release: false,
            folder: "soak-short".to_owned(),
        }
    }

    /// The other short form: a backend is restarted every five seconds, and forgets its sessions in between.
    pub(crate) fn short_zero_400() -> Self {
        Self {
            minutes: 0.4,
            trouble: 0.8,
            zero_400: true,
            folder: "soak-zero-400".to_owned(),
            ..Self::short()
        }
    }

    fn limit(&self) -> Result<Duration> {
        let time = Duration::try_from_secs_f64(self.minutes * 60.0).context("--minutes")?;
        Ok(if self.calls.is_some() { FOR_CALLS } else { time + BESIDES })
    }

    fn words(&self) -> Result<Vec<String>> {
        // The time is no limit where the calls are.
        let minutes = if self.calls.is_some() { self.limit()?.as_secs_f64() / 60.0 } else { self.minutes };
        let mut words = vec![
            format!("--minutes={minutes}"),
            format!("--rate={}", self.rate),
            format!("--agents={}", self.agents),
            format!("--trouble={}", self.trouble),
            format!("--folder=target/{}", self.folder),
        ];
        words.extend(self.calls.map(|calls| format!("--calls={calls}")));
        words.extend(self.seed.map(|seed| format!("--seed={seed}")));
        words.extend(self.zero_400.then(|| "--zero-400".to_owned()));
        if self.release {
            let gateway = paths::root().join("target/release/mcpool");
            ensure!(gateway.exists(), "there is no release build of the gateway");
            words.push(format!("--mcpool={}", gateway.display()));
        }
        Ok(words)
    }
}

/// Builds what is needed and runs the soak; its checks are ours.
///
/// # Errors
/// When something cannot be built, or no report was written.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    steps::build()?;
    let report = paths::root().join("target").join(&options.folder).join("report.json");
    // One of an earlier run would speak for this one.
    if report.exists() {
        fs::remove_file(&report)?;
    }
    let job = Job::new(paths::built("soak")).args(options.words()?).within(options.limit()?);
    let ended = job.attached()?;
    let text = fs::read_to_string(&report).context("the soak ended without a report")?;
    let mut tally = tally(&serde_json::from_str(&text)?)?;
    if !ended.success && tally.failed == 0 {
        tally.add(Tally::fault("the soak did not end well, although its checks passed"));
    }
    Ok(tally)
}

fn tally(report: &Value) -> Result<Tally> {
    let mut tally = Tally::default();
    for check in report["checks"].as_array().context("a report with checks")? {
        let text = || format!("{}: {} (seed {})", check["name"], check["text"], report["seed"]);
        tally.add(match check["outcome"].as_str() {
            Some("passed") => Tally::one(),
            Some("not judged") => Tally::not_judged(text()),
            _ => Tally::fault(text()),
        });
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::tally;

    #[test]
    fn every_check_of_the_report_counts() {
        let report = serde_json::json!({ "seed": 1, "checks": [
            { "name": "a", "outcome": "passed", "text": "" }, { "name": "b", "outcome": "failed", "text": "why" },
            { "name": "c", "outcome": "not judged", "text": "" }, { "name": "d", "text": "no outcome" },
        ]});
        let counted = tally(&report).expect("a report");
        assert_eq!((counted.passed, counted.failed, counted.not_judged.len()), (1, 2, 1));
        assert!(counted.failures[0].contains("why"), "{:?}", counted.failures);
        assert!(tally(&serde_json::json!({})).is_err());
    }
}
