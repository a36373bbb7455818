//! Installs what the gate needs: virtual environments, node modules, docker-compose and Prometheus.
//!
//! The subtle thing: a stamp holds the pinned versions it was installed from, so a changed pin installs anew
//! and an unchanged one costs no network.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::Job;

/// Virtual environments, each with `tests/sdk/python/NAME.txt` as its pins.
const VENVS: [&str; 5] = ["mcp1", "mcp2", "fastmcp4", "fastmcp2", "kubernetes"];
/// Node modules, each with its pins in the lock file of `tests/sdk/NAME`.
const MODULES: [&str; 2] = ["node", "conformance"];

/// Debian's packages, each with a program it brings.
const PACKAGES: [(&str, &str); 2] = [("docker-compose", "docker-compose"), ("prometheus", "promtool")];

/// The test runner that ends a test which hangs; `cargo test` has no time limits.
const NEXTEST: &str = "0.9.143";

/// Installs everything that is missing; one check per part.
///
/// # Errors
/// Never by itself: a part that cannot be installed is a failed check.
pub(crate) fn all() -> Result<Tally> {
    let mut tally = Tally::default();
    for name in VENVS {
        tally.add(part(name, venv(name)));
    }
    for name in MODULES {
        tally.add(part(name, modules(name)));
    }
    tally.add(part("nextest", nextest()));
    for (name, program) in PACKAGES {
        tally.add(part(name, package(name, program)));
    }
    Ok(tally)
}

/// What the laboratory needs alone.
///
/// # Errors
/// Never by itself: a part that cannot be installed is a failed check.
pub(crate) fn of_field() -> Result<Tally> {
    let mut tally = Tally::default();
    for name in ["mcp1", "mcp2"] {
        tally.add(part(name, venv(name)));
    }
    tally.add(part("node", modules("node")));
    Ok(tally)
}

/// The proxies of the long forms, from Debian's packages.
///
/// # Errors
/// When one of them cannot be installed.
pub(crate) fn proxies() -> Result<()> {
    package("nginx", "nginx")?;
    package("haproxy", "haproxy")
}

/// What counts instructions, from Debian's packages.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn valgrind() -> Result<()> {
    package("valgrind", "valgrind")
}

fn part(name: &str, outcome: Result<()>) -> Tally {
    match outcome {
        Ok(()) => Tally::one(),
        Err(error) => Tally::fault(format!("{name}: {error:#}")),
    }
}

fn venv(name: &str) -> Result<()> {
    let pins = paths::sdk().join("python").join(format!("{name}.txt"));
    let wanted = fs::read_to_string(&pins).with_context(|| pins.display().to_string())?;
    let folder = paths::deps().join(name);
    if stamped(&folder, &wanted) {
        return Ok(());
    }
    let target = folder.display().to_string();
    let make = Job::new("python3").args(["-m", "venv", "--clear", target.as_str()]);
    make.logged(&format!("setup-{name}-venv"))?.ok()?;
    let pins = pins.display().to_string();
    let install =
        Job::new(paths::python(name)).args(["-m", "pip", "install", "--quiet", "-r", pins.as_str()]);
    install.within(Duration::from_secs(900)).logged(&format!("setup-{name}-pip"))?.ok()?;
    stamp(&folder, &wanted)
}

fn modules(name: &str) -> Result<()> {
    let (from, to) = (paths::sdk().join(name), paths::deps().join(name));
    fs::create_dir_all(&to)?;
    // Modules are resolved from where a script lies, so ours lie beside what they import.
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let wanted = fs::read_to_string(from.join("package-lock.json"))?;
    if stamped(&to, &wanted) {
        return Ok(());
    }
    let install = Job::new("npm").args(["ci", "--ignore-scripts", "--loglevel", "error"]).at(&to);
    install.within(Duration::from_secs(900)).logged(&format!("setup-{name}"))?.ok()?;
    stamp(&to, &wanted)
}

/// cargo-nextest, unless some version of it is there.
fn nextest() -> Result<()> {
    if Job::new("cargo").args(["nextest", "--version"]).logged("setup-nextest-look")?.success {
        return Ok(());
    }
    let args = ["install", "cargo-nextest", "--locked", "--version", NEXTEST];
    Job::new("cargo").args(args).within(Duration::from_secs(1800)).logged("setup-nextest")?.ok()
}

/// A package of Debian, unless its program is there.
fn package(name: &str, program: &str) -> Result<()> {
    let look = format!("command -v {program}");
    if Job::new("sh").args(["-c", look.as_str()]).logged(&format!("setup-{name}-look"))?.success {
        return Ok(());
    }
    let apt = |args: &[&str], log: &str| -> Result<()> {
        let job = Job::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive");
        // What is installed for a check must not start as a service.
        job.env("RUNLEVEL", "1").logged(log)?.ok()
    };
    apt(&["update"], "setup-apt-update")?;
    apt(&["install", "-y", "--no-install-recommends", name], &format!("setup-{name}"))
}

fn stamped(folder: &Path, wanted: &str) -> bool {
    fs::read_to_string(folder.join(".stamp")).is_ok_and(|had| had == wanted)
}

fn stamp(folder: &Path, wanted: &str) -> Result<()> {
    Ok(fs::write(folder.join(".stamp"), wanted)?)
}
