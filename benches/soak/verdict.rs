//! What a soak must show, check by check.
//!
//! The subtle thing: what needs hours to be seen is judged in long runs only. In a short one such a check is printed as
//! `not judged`; every check that counts can fail.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    ledger::Sums,
    sample::{Sample, mib, millis},
};

/// From here on a run is long: memory is judged by its slope, latency by its change.
const LONG: Duration = Duration::from_secs(3500);
/// The slope of memory a long run may have, in MiB per hour.
const SLOPE: f64 = 1.0;
/// What the gateway may hold at most, in MiB: some twenty for itself, as much again for two hundred agents that come
/// and go, the rest for their worst moment.
const MOST_MIB: f64 = 96.0;
/// The p99 of the last part of a long run, over that of its first part.
const SLOWER: f64 = 1.10;
/// Descriptors and threads that may be there more than at the start, besides 2 %: connections kept alive a while.
const FEW: f64 = 6.0;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// The run was too short for this figure to mean anything.
    NotJudged,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotJudged => "not judged",
        }
    }
}

/// One check.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
    pub(super) text: String,
}

impl Check {
    fn new(name: &'static str, passed: bool, text: String) -> Self {
        let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
        Self { name, outcome, text }
    }

    /// A check that only a long run can judge.
    fn of_long_runs(name: &'static str, lasted: Duration, passed: bool, text: String) -> Self {
        let judged = Self::new(name, passed, text);
        if lasted < LONG { Self { outcome: Outcome::NotJudged, ..judged } } else { judged }
    }

    pub(super) fn json(&self) -> Value {
        json!({ "name": self.name, "outcome": self.outcome.as_str(), "text": self.text })
    }
}

/// Everything that is judged.
pub(super) struct Evidence<'a> {
    pub(super) lasted: Duration,
    pub(super) sums: &'a Sums,
    /// 4xx and 5xx as the gateway counted them.
    pub(super) refused: f64,
    pub(super) troubles: u64,
    /// Before the load, with every backend called once.
    pub(super) before: &'a Sample,
    pub(super) samples: &'a [Sample],
    /// After everybody had left.
    pub(super) after: &'a Sample,
    pub(super) wanted_calls: f64,
}

/// All checks, in the order of how much they matter.
pub(super) fn judge(evidence: &Evidence<'_>) -> Vec<Check> {
    let sums = evidence.sums;
    let mut checks = vec![
        Check::new(
            "calls",
            sums.failed == 0,
            format!(
                "{} answered, {} lost as they may be (-31905, maybe), {} failed {}",
                sums.answered,
                sums.lost,
                sums.failed,
                sums.failures.first().map(String::as_str).unwrap_or_default()
            ),
        ),
        Check::new(
            "refusals",
            sums.refused.is_empty() && evidence.refused == 0.0,
            format!(
                "statuses outside 2xx at agents: {:?}; counted by the gateway: {}",
                sums.refused, evidence.refused
            ),
        ),
        Check::new("own answers", sums.foreign == 0, format!("{} of others", sums.foreign)),
        did_something(evidence),
        all_given_back(evidence.after),
        like_before("descriptors", evidence.before.descriptors(), evidence.after.descriptors()),
        like_before("threads", count(evidence.before.threads), count(evidence.after.threads)),
        like_before(
            "sessions",
            evidence.before.gauge("mcpool_sessions"),
            evidence.after.gauge("mcpool_sessions"),
        ),
    ];
    checks.extend([memory(evidence), growth(evidence), latency(evidence)]);
    checks
}

/// A run in which little was called, or nothing went wrong, has shown nothing.
fn did_something(evidence: &Evidence<'_>) -> Check {
    let sums = evidence.sums;
    let answered = count(sums.answered);
    let passed = answered >= 0.5 * evidence.wanted_calls
        && evidence.troubles > 0
        && sums.left > 0
        && sums.vanished > 0;
    Check::new(
        "load",
        passed,
        format!(
            "{answered} answers of {:.0} wanted, {} troubles, {} agents came, {} left, {} vanished",
            evidence.wanted_calls, evidence.troubles, sums.born, sums.left, sums.vanished
        ),
    )
}

fn all_given_back(after: &Sample) -> Check {
    let [in_flight, waiting, agents, buffered] = after.held();
    Check::new(
        "given back",
        after.held() == [0.0; 4],
        format!(
            "in flight {in_flight}, waiting {waiting}, agent sessions {agents}, bytes buffered {buffered}"
        ),
    )
}

fn like_before(name: &'static str, before: f64, after: f64) -> Check {
    let most = (before * 1.02).max(before + FEW);
    Check::new(name, after <= most, format!("{before} before, {after} after (at most {most:.0})"))
}

fn memory(evidence: &Evidence<'_>) -> Check {
    let most = evidence.samples.iter().map(|sample| mib(sample.rss_kib)).fold(0.0, f64::max);
    let text = format!(
        "at most {most:.1} MiB (limit {MOST_MIB}), {:.1} before, {:.1} after",
        mib(evidence.before.rss_kib),
        mib(evidence.after.rss_kib)
    );
    Check::new("memory", most < MOST_MIB, text)
}

fn growth(evidence: &Evidence<'_>) -> Check {
    let slope = slope(settled(evidence.samples));
    let text = format!("{slope:.2} MiB/h over the last four fifths (limit {SLOPE})");
    Check::of_long_runs("growth", evidence.lasted, slope < SLOPE, text)
}

/// The first fifth fills caches and pools.
fn settled(samples: &[Sample]) -> &[Sample] {
    samples.get(samples.len() / 5..).unwrap_or_default()
}

/// Least squares, in MiB per hour.
fn slope(samples: &[Sample]) -> f64 {
    let n = count(samples.len() as u64);
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / n.max(1.0);
    let (hours, memory) = (|sample: &Sample| sample.at / 3600.0, |sample: &Sample| mib(sample.rss_kib));
    let (mean_hours, mean_memory) = (mean(hours), mean(memory));
    let (mut over, mut under) = (0.0, 0.0);
    for sample in samples {
        let x = hours(sample) - mean_hours;
        over += x * (memory(sample) - mean_memory);
        under += x * x;
    }
    if under > 0.0 { over / under } else { 0.0 }
}

/// Troubles delay calls, so it is the usual interval that is compared, not the worst.
fn latency(evidence: &Evidence<'_>) -> Check {
    let usual = |part: &[Sample]| {
        let mut all: Vec<Duration> = part.iter().filter(|s| s.answered > 0).map(|s| s.p99).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let samples = settled(evidence.samples);
    let part = samples.len() / 4;
    let (first, last) = (usual(&samples[..part]), usual(&samples[samples.len() - part..]));
    let ratio = if first.is_zero() { 1.0 } else { last.as_secs_f64() / first.as_secs_f64() };
    let text = format!(
        "usual p99 of an interval {:.1} ms in the first part, {:.1} ms in the last (ratio {ratio:.2})",
        millis(first),
        millis(last)
    );
    Check::of_long_runs("latency", evidence.lasted, ratio <= SLOWER, text)
}

#[allow(clippy::cast_precision_loss, reason = "no run has 2^52 calls")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growing(kib_per_minute: u64) -> Vec<Sample> {
        let at = |minute: u64| Sample {
            at: count(minute) * 60.0,
            rss_kib: 20_000 + minute * kib_per_minute,
            ..Sample::default()
        };
        (0..90).map(at).collect()
    }

    fn outcomes(lasted: Duration, samples: &[Sample], sums: &Sums, after: &Sample) -> Vec<Check> {
        let evidence = Evidence {
            lasted,
            sums,
            refused: 0.0,
            troubles: 1,
            before: &samples[0],
            samples,
            after,
            wanted_calls: 100.0,
        };
        judge(&evidence)
    }

    fn judged(samples: &[Sample], sums: &Sums, after: &Sample) -> Vec<&'static str> {
        let checks = outcomes(Duration::from_secs(5400), samples, sums, after);
        named(&checks, Outcome::Failed)
    }

    fn named(checks: &[Check], outcome: Outcome) -> Vec<&'static str> {
        checks.iter().filter(|check| check.outcome == outcome).map(|check| check.name).collect()
    }

    #[test]
    fn the_slope_is_that_of_the_line() {
        assert!((slope(&growing(1024)) - 60.0).abs() < 0.01);
        assert!(slope(&growing(0)).abs() < 0.01);
    }

    #[test]
    fn each_check_can_fail() {
        let fine = Sums { answered: 100, born: 9, left: 5, vanished: 4, ..Sums::default() };
        let flat = growing(0);
        assert_eq!(judged(&flat, &fine, &flat[0]), Vec::<&str>::new());
        assert_eq!(judged(&growing(20), &fine, &flat[0]), ["growth"]);
        assert_eq!(judged(&growing(1024), &fine, &flat[0]), ["memory", "growth"]);
        let refused = [(404, 1)].into();
        assert_eq!(judged(&flat, &Sums { refused, ..fine.clone() }, &flat[0]), ["refusals"]);
        assert_eq!(judged(&flat, &Sums { failed: 1, ..fine.clone() }, &flat[0]), ["calls"]);
        assert_eq!(judged(&flat, &Sums { foreign: 1, ..fine.clone() }, &flat[0]), ["own answers"]);
        assert_eq!(judged(&flat, &Sums { answered: 10, ..fine.clone() }, &flat[0]), ["load"]);
        let more = Sample { threads: 50, ..flat[0].clone() };
        assert_eq!(judged(&flat, &fine, &more), ["threads"]);
    }

    #[test]
    fn a_short_run_does_not_judge_what_needs_hours() {
        let fine = Sums { answered: 100, born: 9, left: 5, vanished: 4, ..Sums::default() };
        let steep = growing(20);
        let checks = outcomes(Duration::from_secs(30), &steep, &fine, &steep[0]);
        assert_eq!(named(&checks, Outcome::NotJudged), ["growth", "latency"]);
        assert_eq!(named(&checks, Outcome::Failed), Vec::<&str>::new());
    }
}
