//! The client scenarios of the suite, with the gateway as the client: how it speaks to backends.
//!
//! The suite starts a server per scenario and runs a command, which is `mcpool-testkit client` here: a gateway with that
//! one backend, and an agent that makes it do what the scenario looks at. The subtle thing: the suite sees what reached
//! its server and nothing else, so what the agent got back is judged besides, by what the command said of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use super::{Bar, Options, fixture::NEW, perform, results::STAMP};
use crate::harness::paths;
use crate::harness::report::Tally;

/// What the command says when the agent got all it should.
const CONTENT: &str = "as it should be";

/// One run; all scenarios of a revision.
#[derive(Debug)]
struct Run {
    /// Its name in the table and of its log.
    name: &'static str,
    /// How the agent speaks: `legacy` or `modern`.
    agent: &'static str,
    /// The `era` of the backend.
    era: &'static str,
    revision: &'static str,
    /// Its expected failures, files in `tests/conformance/expected`.
    expected: &'static [&'static str],
    /// Checks that have to pass at least.
    least: u32,
}

const LOGIN: &str = "client-login.yml";

#[rustfmt::skip]
const RUNS: [Run; 6] = [
    Run { name: "client-0.2@2025-11-25", agent: "legacy", era: "auto", revision: "2025-11-25", expected: &[LOGIN], least: 20 },
    Run { name: "client-0.2@2026-07-28", agent: "modern", era: "auto", revision: "2026-07-28", expected: &[LOGIN, "client-auto.yml"], least: 64 },
    Run { name: "client-modern-0.2@2026-07-28", agent: "modern", era: "modern", revision: "2026-07-28", expected: &[LOGIN], least: 67 },
    Run { name: "client-crossed-0.2@2025-11-25", agent: "modern", era: "auto", revision: "2025-11-25", expected: &[LOGIN], least: 20 },
    Run { name: "client-crossed-0.2@2026-07-28", agent: "legacy", era: "auto", revision: "2026-07-28", expected: &[LOGIN, "client-auto.yml"], least: 64 },
    Run { name: "client-crossed-modern-0.2@2026-07-28", agent: "legacy", era: "modern", revision: "2026-07-28", expected: &[LOGIN], least: 67 },
];

/// Every run that was asked for.
///
/// # Errors
/// When the suite does not start, or a list of expected failures cannot be read.
pub(super) fn run(options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    for run in RUNS.iter().filter(|run| options.takes(run.name)) {
        tally.add(run.perform(options).with_context(|| run.name)?);
    }
    Ok(tally)
}

impl Run {
    fn perform(&self, options: &Options) -> Result<Tally> {
        let began = Instant::now();
        let name = format!("conformance-{}", self.name);
        let expected = expected(self.expected, &name)?.display().to_string();
        let command = self.command();
        let side = ["client", "--command", &command];
        let args = ["--suite", "all", "--spec-version", self.revision, "--expected-failures", &expected];
        let (ended, results) = perform(NEW, &name, &side, &args)?;
        let bar = Bar { name: self.name, expected: &self.expected.join(", "), least: self.least };
        let mut tally = bar.judge(options, began, (&ended, &results));
        let said = said(&paths::logs().join(&name))?;
        // Nobody logs in, so their agents get nothing.
        for scenario in results.names().filter(|name| !name.starts_with("auth/")) {
            let said = said.get(scenario).map_or("nothing", String::as_str);
            tally.add(Tally::check(said == CONTENT, || format!("{}: {scenario}: {said}", self.name)));
        }
        Ok(tally)
    }

    /// What the suite runs for each scenario; it adds the URL of its server.
    fn command(&self) -> String {
        let [testkit, mcpool] =
            ["mcpool-testkit", "mcpool"].map(|program| paths::built(program).display().to_string());
        format!("{testkit} client --mcpool {mcpool} --agent {} --era {}", self.agent, self.era)
    }
}

/// The lists of these files as one file, which is what the suite takes.
fn expected(files: &[&str], name: &str) -> Result<PathBuf> {
    let folder = paths::root().join("tests/conformance/expected");
    let mut all = "client:\n".to_owned();
    for file in files {
        let text = fs::read_to_string(folder.join(file)).with_context(|| (*file).to_owned())?;
        all.extend(text.lines().filter(|line| line.starts_with("  - ")).flat_map(|line| [line, "\n"]));
    }
    fs::create_dir_all(paths::logs())?;
    let path = paths::logs().join(format!("{name}.yml"));
    fs::write(&path, all)?;
    Ok(path)
}

/// What the command said, by scenario.
fn said(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut said = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Scenarios of a group lie deeper.
        let Ok(text) = fs::read_to_string(path.join("stdout.txt")) else { continue };
        said.insert(name[..name.len().saturating_sub(STAMP)].to_owned(), text.trim().to_owned());
    }
    Ok(said)
}
