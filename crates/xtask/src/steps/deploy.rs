//! The shipped files for other people's machines: the manifests for Kubernetes and the unit for systemd.
//!
//! The subtle thing: systemd looks for the program that a unit starts, so the unit is checked with the built one in its
//! place.

use std::fs;

use anyhow::{Context, Result};

use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::Job;

/// The oldest release whose schemas we want to fit, and the one whose schemas the validator takes by default.
const RELEASES: [&str; 2] = ["1.29.0", "1.37.0"];
const UNIT: &str = "config/systemd/mcpool.service";
const PROGRAM: &str = "/usr/local/bin/mcpool";

/// Validates every manifest against the schemas of Kubernetes, and the unit by systemd where that is installed.
///
/// # Errors
/// When a file or a program is missing.
pub(crate) fn run() -> Result<Tally> {
    let mut tally = manifests()?;
    let look = Job::new("sh").args(["-c", "command -v systemd-analyze"]).logged("deploy-look")?;
    if look.success {
        tally.add(unit()?);
    } else {
        println!("   no systemd-analyze here: {UNIT} is not checked");
    }
    Ok(tally)
}

fn manifests() -> Result<Tally> {
    let folder = paths::root().join("config/kubernetes");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.ends_with(".yaml"))
        .collect();
    files.sort();
    let mut tally = Tally::default();
    for release in RELEASES {
        let args = ["-m", "kubernetes_validate", "--strict", "--kubernetes-version", release];
        let args = args.into_iter().chain(files.iter().map(String::as_str));
        let ended = Job::new(paths::python("kubernetes")).args(args).logged(&format!("deploy-{release}"))?;
        let passed = ended.success && ended.output.contains("passed");
        tally.add(Tally::check(passed, || format!("manifests against {release}: {}", ended.output)));
    }
    Ok(tally)
}

fn unit() -> Result<Tally> {
    let text = fs::read_to_string(paths::root().join(UNIT)).context(UNIT)?;
    let built = paths::built("mcpool").display().to_string();
    let file = paths::logs().join("mcpool.service");
    fs::write(&file, text.replace(PROGRAM, &built))?;
    let file = file.display().to_string();
    let ended = Job::new("systemd-analyze").args(["verify", "--man=no", &file]).logged("deploy-unit")?;
    // A key it does not know is a warning only.
    let passed = ended.success && ended.output.trim().is_empty() && text.contains(PROGRAM);
    Ok(Tally::check(passed, || format!("systemd-analyze verify {UNIT}: {}", ended.output)))
}
