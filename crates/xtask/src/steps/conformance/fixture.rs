//! The suites against the conformance fixture, alone and behind the gateway.
//!
//! The subtle thing: which checks may fail is the suite's own business, by its list of expected failures: a run passes
//! when the suite ends with 0, so a failure that is listed and happens no more is a fault, too. A suite that checked
//! nothing would end with 0 as well; so each run says how many checks have to pass at least.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Bar, Options, perform};
use crate::harness::gateway::Gateway;
use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::{Job, Service};
use crate::real::backends;

/// One run; another way to run is another row of [`RUNS`].
#[derive(Debug)]
struct Run {
    /// Its name in the table and of its log.
    name: &'static str,
    /// What the fixture speaks: `both`, `legacy` or `modern`.
    era: &'static str,
    way: Way,
    /// Folder of the release among the modules.
    package: &'static str,
    checks: Checks,
    /// Its expected failures, a file in `tests/conformance/expected`.
    expected: &'static str,
    /// Checks that have to pass at least.
    least: u32,
}

/// How the suite reaches the fixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    /// Through a gateway, with these lines in the table of its backend.
    Gateway(&'static str),
}

/// Which checks a run is about.
#[derive(Debug, Clone, Copy)]
enum Checks {
    /// All, each at its own revision.
    All,
    /// All there are at a revision.
    At(&'static str),
    /// Those a server must pass to conform to a revision; what else is run is not scored.
    Required(&'static str),
}

const OLD: &str = "conformance-0.1";
pub(super) const NEW: &str = "conformance-0.2";
const PINNED: Way = Way::Gateway("mode = \"pinned\"\n");
const AUTO: Way = Way::Gateway("");
/// Whoever has no session may be asked things on one: what is left there belongs to nobody.
const STATELESS: Way = Way::Gateway("state = \"none\"\n");

#[rustfmt::skip]
const RUNS: [Run; 14] = [
    Run { name: "fixture-0.1.16", era: "both", way: Way::Direct, package: OLD, checks: Checks::All, expected: "direct.yml", least: 47 },
    Run { name: "fixture-0.2@2025-06-18", era: "both", way: Way::Direct, package: NEW, checks: Checks::At("2025-06-18"), expected: "direct.yml", least: 56 },
    Run { name: "fixture-0.2@2025-11-25", era: "both", way: Way::Direct, package: NEW, checks: Checks::At("2025-11-25"), expected: "direct.yml", least: 84 },
    Run { name: "fixture-0.2@2026-07-28", era: "both", way: Way::Direct, package: NEW, checks: Checks::At("2026-07-28"), expected: "direct.yml", least: 152 },
    Run { name: "fixture-0.2-required-2026-07-28", era: "both", way: Way::Direct, package: NEW, checks: Checks::Required("2026-07-28"), expected: "direct.yml", least: 152 },
    Run { name: "fixture-legacy-0.2@2025-11-25", era: "legacy", way: Way::Direct, package: NEW, checks: Checks::At("2025-11-25"), expected: "direct.yml", least: 84 },
    Run { name: "fixture-modern-0.2@2026-07-28", era: "modern", way: Way::Direct, package: NEW, checks: Checks::At("2026-07-28"), expected: "direct.yml", least: 152 },
    Run { name: "fixture-mcpool-0.1.16", era: "legacy", way: PINNED, package: OLD, checks: Checks::All, expected: "mcpool.yml", least: 47 },
    Run { name: "fixture-mcpool-0.2@2025-06-18", era: "legacy", way: PINNED, package: NEW, checks: Checks::At("2025-06-18"), expected: "mcpool.yml", least: 56 },
    Run { name: "fixture-mcpool-0.2@2025-11-25", era: "legacy", way: PINNED, package: NEW, checks: Checks::At("2025-11-25"), expected: "mcpool.yml", least: 84 },
    Run { name: "fixture-modern-mcpool-0.2@2026-07-28", era: "modern", way: AUTO, package: NEW, checks: Checks::At("2026-07-28"), expected: "mcpool.yml", least: 152 },
    Run { name: "fixture-legacy-mcpool-0.2@2026-07-28", era: "legacy", way: STATELESS, package: NEW, checks: Checks::At("2026-07-28"), expected: "modern-agents.yml", least: 147 },
    Run { name: "fixture-modern-mcpool-0.2@2025-11-25", era: "modern", way: AUTO, package: NEW, checks: Checks::At("2025-11-25"), expected: "mcpool.yml", least: 83 },
    Run { name: "fixture-modern-mcpool-0.2@2025-06-18", era: "modern", way: AUTO, package: NEW, checks: Checks::At("2025-06-18"), expected: "mcpool.yml", least: 56 },
];

/// Every run that was asked for; a fixture and a gateway of its own for each.
///
/// # Errors
/// When the fixture, the gateway or a suite does not start.
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
        let fixture = Fixture::start(self.era)?;
        let gateway = match self.way {
            Way::Direct => None,
            Way::Gateway(lines) => {
                let table = backends::reached_at(&fixture.url) + lines;
                Some(Gateway::tables("gateway-fixture", &[("fixture", table)])?)
            }
        };
        let url = match &gateway {
            None => fixture.url.clone(),
            Some(gateway) => format!("http://127.0.0.1:{}/mcp", gateway.port),
        };
        let name = format!("conformance-{}", self.name);
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (ended, results) = perform(self.package, &name, &["server", "--url", &url], &args)?;
        let bar = Bar { name: self.name, expected: self.expected, least: self.least };
        Ok(bar.judge(options, began, (&ended, &results)))
    }

    /// What the suite is told besides where the server is.
    fn args(&self) -> Vec<String> {
        let expected = paths::root().join("tests/conformance/expected").join(self.expected);
        let expected = ["--expected-failures".to_owned(), expected.display().to_string()];
        let checks: &[&str] = match self.checks {
            Checks::All => &["--suite", "all"],
            Checks::At(revision) => &["--suite", "all", "--spec-version", revision],
            // A set that is required has no exceptions.
            Checks::Required(revision) => {
                return ["--requirements", revision].map(str::to_owned).to_vec();
            }
        };
        checks.iter().map(|word| (*word).to_owned()).chain(expected).collect()
    }
}

/// A fixture that runs.
struct Fixture {
    url: String,
    _service: Service,
}

impl Fixture {
    fn start(era: &str) -> Result<Self> {
        let job = Job::new(paths::built("mcpool-testkit")).args(["--era", era, "--until-stdin-closes"]);
        let service = job.service(&format!("fixture-{era}"))?;
        match service
            .line(Duration::from_secs(60))?
            .as_deref()
            .and_then(|line| line.strip_prefix("listening on "))
        {
            Some(url) => Ok(Self { url: url.trim().to_owned(), _service: service }),
            None => bail!("it does not say where it listens; {}", service.last_words()),
        }
    }
}
