//! What a run of a suite said: its summary, and the single checks from the files it leaves.
//!
//! The subtle thing: the verdict of a scenario is the suite's own mark in its summary, since a scenario may pass with
//! no check at all (it did not apply); the files only say which checks failed, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Length of the time that ends the name of a scenario's folder.
pub(super) const STAMP: usize = "-2026-01-31T23-59-59-999Z".len();

/// How one scenario went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scenario {
    ok: bool,
    passed: u32,
    failed: u32,
    /// Checks that failed, with what they say.
    failing: BTreeMap<String, String>,
}

/// All scenarios of one run, by name.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<String, Scenario>);

impl Results {
    /// Reads the summary out of what a suite printed, and its files.
    ///
    /// # Errors
    /// When there is no summary, or a file is not what it should be.
    pub(crate) fn read(output: &str, folder: &Path) -> Result<Self> {
        let mut results = Self(output.lines().filter_map(line).collect());
        if results.0.is_empty() {
            bail!("no summary in its output");
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = name.strip_prefix("server-").unwrap_or(&name);
            let Some(scenario) = results.0.get_mut(&name[..name.len().saturating_sub(STAMP)]) else {
                continue;
            };
            let text = fs::read_to_string(path.join("checks.json")).context("checks.json")?;
            scenario.failing = failing(&serde_json::from_str(&text)?);
        }
        Ok(results)
    }

    /// The scenarios' names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many checks passed and failed.
    pub(crate) fn checks(&self) -> (u32, u32) {
        self.0.values().fold((0, 0), |(p, f), scenario| (p + scenario.passed, f + scenario.failed))
    }

    /// How many scenarios the suite marked as passed.
    pub(crate) fn good(&self) -> usize {
        self.0.values().filter(|scenario| scenario.ok).count()
    }

    /// What one scenario lost against the same one run directly.
    pub(crate) fn worse_than(&self, direct: &Self, name: &str) -> Option<String> {
        let (ours, theirs) = (self.0.get(name), direct.0.get(name)?);
        let Some(ours) = ours else { return Some("was not run through mcpool".to_owned()) };
        let lost: Vec<String> = ours
            .failing
            .iter()
            .filter(|(check, _)| !theirs.failing.contains_key(*check))
            .map(|(check, why)| format!("{check}: {why}"))
            .collect();
        match (theirs.ok && theirs.passed > 0, ours.ok && ours.passed > 0) {
            (true, false) => Some(format!("passes directly and not through mcpool: {}", lost.join("; "))),
            _ if !lost.is_empty() => Some(format!("fails through mcpool alone: {}", lost.join("; "))),
            _ => None,
        }
    }

    /// What is wrong with the list of expected failures, for one scenario.
    pub(crate) fn surprise(&self, name: &str, listed: bool) -> Option<String> {
        match (self.0.get(name)?.ok, listed) {
            (true, true) => Some("passes now: take it off the list of expected failures".to_owned()),
            (false, false) => Some("fails and is not on the list of expected failures".to_owned()),
            (true, false) | (false, true) => None,
        }
    }

    /// One line per scenario that went differently.
    pub(crate) fn differences(&self, direct: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(direct.0.keys()).collect();
        let mut lines = Vec::new();
        for name in names {
            let (ours, theirs) = (self.0.get(name), direct.0.get(name));
            if ours.map(Scenario::counts) != theirs.map(Scenario::counts) {
                let shown =
                    |scenario: Option<&Scenario>| scenario.map_or("not run".to_owned(), Scenario::shown);
                lines.push(format!("{name}: directly {}, through mcpool {}", shown(theirs), shown(ours)));
            }
        }
        lines
    }

    /// One line per check that failed.
    pub(crate) fn failing(&self) -> Vec<String> {
        let lines = self.0.iter().flat_map(|(name, scenario)| {
            scenario.failing.iter().map(move |(check, why)| format!("{name}/{check}: {why}"))
        });
        lines.collect()
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed) = self.checks();
        write!(f, "{passed}/{} checks, {}/{} scenarios", passed + failed, self.good(), self.0.len())
    }
}

impl Scenario {
    fn counts(&self) -> (bool, u32, u32) {
        (self.ok, self.passed, self.failed)
    }

    fn shown(&self) -> String {
        let mark = if self.ok { "passes" } else { "fails" };
        format!("{mark} ({} passed, {} failed)", self.passed, self.failed)
    }
}

/// A line of the summary: `MARK NAME: N passed, M failed`, and perhaps `, W warnings`.
fn line(text: &str) -> Option<(String, Scenario)> {
    let (mark, rest) = text.trim().split_once(' ')?;
    let ok = match mark {
        "✓" => true,
        "✗" => false,
        _ => return None,
    };
    let (name, counts) = rest.rsplit_once(": ")?;
    let (passed, failed) = counts.split_once(" passed, ")?;
    let failed = failed.split(", ").next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((name.to_owned(), Scenario { ok, passed: passed.parse().ok()?, failed, failing: BTreeMap::new() }))
}

/// The failed checks of a scenario's file.
fn failing(checks: &Value) -> BTreeMap<String, String> {
    let failed = checks.as_array().into_iter().flatten().filter(|check| check["status"] == "FAILURE");
    let text =
        |value: &Value| value.as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    failed.map(|check| (text(&check["id"]), text(&check["errorMessage"]))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Results, Scenario, failing, line};

    fn results(lines: &str) -> Results {
        Results(lines.lines().filter_map(line).collect())
    }

    #[test]
    fn reads_the_lines_of_a_summary() {
        let scenario = Scenario { ok: false, passed: 2, failed: 1, ..Scenario::default() };
        assert_eq!(
            line("✗ server-initialize: 2 passed, 1 failed"),
            Some(("server-initialize".into(), scenario))
        );
        let warned = line("✗ auth/metadata: 5 passed, 2 failed, 1 warnings").expect("a scenario");
        assert_eq!((warned.0.as_str(), warned.1.counts()), ("auth/metadata", (false, 5, 2)));
        assert_eq!(line("Total: 2 passed, 1 failed"), None);
        assert_eq!(line("✓ connected"), None);
    }

    #[test]
    fn a_scenario_that_passes_directly_alone_is_a_fault() {
        let direct =
            results("✓ ping: 1 passed, 0 failed\n✗ audio: 0 passed, 1 failed\n✓ none: 0 passed, 0 failed");
        let gated =
            results("✗ ping: 0 passed, 1 failed\n✓ audio: 1 passed, 0 failed\n✓ none: 0 passed, 0 failed");
        assert!(gated.worse_than(&direct, "ping").is_some());
        assert_eq!(gated.worse_than(&direct, "audio"), None);
        assert_eq!(gated.worse_than(&direct, "none"), None);
        assert!(
            results("").worse_than(&direct, "ping").is_some(),
            "a scenario that was not run has not passed"
        );
        let hollow = results("✓ ping: 0 passed, 0 failed");
        assert!(hollow.worse_than(&direct, "ping").is_some(), "a scenario without checks has not passed");
    }

    #[test]
    fn a_check_that_fails_through_the_gateway_alone_is_a_fault() {
        let mut direct = results("✗ audio: 1 passed, 1 failed");
        let mut gated = results("✗ audio: 1 passed, 1 failed");
        let failed =
            |id: &str| failing(&json!([{"id": id, "status": "FAILURE", "errorMessage": "no\nmore"}]));
        direct.0.get_mut("audio").expect("it").failing = failed("tool");
        gated.0.get_mut("audio").expect("it").failing = failed("tool");
        assert_eq!(gated.worse_than(&direct, "audio"), None);
        gated.0.get_mut("audio").expect("it").failing = failed("wire");
        assert_eq!(
            gated.worse_than(&direct, "audio").as_deref(),
            Some("fails through mcpool alone: wire: no")
        );
    }

    #[test]
    fn the_list_of_expected_failures_must_be_exact() {
        let gated = results("✗ audio: 0 passed, 1 failed\n✓ ping: 1 passed, 0 failed");
        assert!(gated.surprise("audio", false).is_some());
        assert!(gated.surprise("ping", true).is_some());
        assert_eq!(gated.surprise("audio", true), None);
        assert_eq!(gated.surprise("ping", false), None);
    }
}
