//! Coverage-guided fuzzing of the targets in `tests/fuzz`, which needs a nightly compiler and cargo-fuzz.
//!
//! The subtle thing: what the fuzzer finds on its way grows in `target/fuzz/corpus` from run to run; into the kept
//! inputs, which the gate replays on a stable compiler, goes only what `--keep` picks, up to the bounds that the replay
//! checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::Job;

/// The release of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// Building the gateway and its dependencies for the fuzzer, on a cold machine with two cores.
const BUILD: Duration = Duration::from_secs(3600);
/// An input that takes longer is a finding, s.
const SLOW: u32 = 10;
/// Memory above which an input is a finding, MiB.
const MEMORY: u32 = 512;
/// Kept inputs of one target, and bytes of them; `tests/it/corpus.rs` holds the same.
const MOST: (usize, u64) = (199, 300 << 10);

/// What to fuzz, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this target (see tests/fuzz/README.md).
    #[arg(long)]
    target: Option<String>,
    /// Seconds per target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Afterwards, adds what reaches something new to the inputs that the gate replays.
    #[arg(long)]
    keep: bool,
    /// A sanitizer that cargo-fuzz knows, such as `address`; the gateway itself has no unsafe code.
    #[arg(long, default_value = "none")]
    sanitizer: String,
}

/// Fuzzes one target after the other; one check per target.
///
/// # Errors
/// When there is no nightly compiler, no such target, or it cannot be built.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let targets = targets(options.target.as_deref())?;
    tools()?;
    for target in &targets {
        let build = cargo_fuzz("build", &options.sanitizer, &[target]);
        build.within(BUILD).logged("fuzz-build")?.ok().with_context(|| format!("cannot build {target}"))?;
    }
    let mut tally = Tally::default();
    let mut rows = Vec::new();
    for target in &targets {
        let (row, found) = fuzz(target, options)?;
        tally.add(found);
        rows.push(row);
    }
    println!("\n   {:<10} {:>12} {:>9} {:>8} {:>8}", "target", "executions", "per s", "corpus", "findings");
    rows.iter().for_each(|row| println!("   {row}"));
    Ok(tally)
}

fn folder() -> PathBuf {
    paths::root().join("tests").join("fuzz")
}

fn targets(only: Option<&str>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder().join("libfuzzer/fuzz_targets"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        all.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    all.sort();
    match only {
        None => Ok(all),
        Some(name) if all.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("no target {name}; there are {}", all.join(", ")),
    }
}

fn tools() -> Result<()> {
    if !Job::new("cargo").args(["+nightly", "--version"]).logged("fuzz-nightly")?.success {
        bail!("fuzzing needs a nightly compiler: rustup toolchain install nightly");
    }
    if Job::new("cargo").args(["fuzz", "--version"]).logged("fuzz-look")?.success {
        return Ok(());
    }
    let install = Job::new("cargo").args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ]);
    install.within(BUILD).logged("fuzz-install")?.ok()
}

fn cargo_fuzz(task: &str, sanitizer: &str, rest: &[&str]) -> Job {
    let target_dir = build_folder().display().to_string();
    Job::new("cargo")
        .args([
            "+nightly",
            "fuzz",
            task,
            "--fuzz-dir",
            "tests/fuzz/libfuzzer",
            "--target-dir",
            target_dir.as_str(),
        ])
        .args(["--sanitizer", sanitizer])
        .args(rest)
        .env("CARGO_TERM_COLOR", "never")
}

/// Where the build, the growing inputs and what was found lie.
fn build_folder() -> PathBuf {
    paths::root().join("target").join("fuzz")
}

/// One line of the table.
struct Row {
    target: String,
    executions: u64,
    per_second: u64,
    corpus: usize,
    findings: usize,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { target, executions, per_second, corpus, findings } = self;
        write!(f, "{target:<10} {executions:>12} {per_second:>9} {corpus:>8} {findings:>8}")
    }
}

fn fuzz(target: &str, options: &Options) -> Result<(Row, Tally)> {
    let kept = folder().join("corpus").join(target);
    let grown = build_folder().join("corpus").join(target);
    let found = build_folder().join("findings").join(target);
    fs::create_dir_all(&grown)?;
    fs::create_dir_all(&found)?;
    let arguments = [
        format!("-max_total_time={}", options.seconds),
        format!("-timeout={SLOW}"),
        format!("-rss_limit_mb={MEMORY}"),
        format!("-artifact_prefix={}/", found.display()),
        "-print_final_stats=1".to_owned(),
    ];
    let places =
        [target.to_owned(), grown.display().to_string(), kept.display().to_string(), "--".to_owned()];
    let job =
        cargo_fuzz("run", &options.sanitizer, &[]).args(places).args(arguments).args(dictionary(target));
    let limit = Duration::from_secs(options.seconds + 300);
    let ended = job.within(limit).logged(&format!("fuzz-{target}"))?;
    let inputs: Vec<&str> =
        ended.output.lines().filter_map(|line| line.split("Test unit written to ").nth(1)).collect();
    if options.keep {
        keep(target, &options.sanitizer, &kept, &grown)?;
    }
    let executions = stat(&ended.output, "number_of_executed_units");
    let per_second = stat(&ended.output, "average_exec_per_sec");
    let row = Row {
        target: target.to_owned(),
        executions,
        per_second,
        corpus: files(&grown)?.len() + files(&kept)?.len(),
        findings: inputs.len(),
    };
    let tally = match (ended.success && executions > 0, inputs.first()) {
        (true, _) => Tally::one(),
        (false, Some(input)) => Tally::fault(format!("{target}: {}; {input}", reason(&ended.output))),
        (false, None) => Tally::fault(format!("{target}: {:#}", ended.ok().err().context("it ran nothing")?)),
    };
    Ok((row, tally))
}

fn dictionary(target: &str) -> Option<String> {
    let name = match target {
        "envelope" | "id" | "batch" | "downgrade" | "cursor" | "stdio" | "classify" => "json",
        "inbound" => "http",
        "sse" => "sse",
        "config" => "toml",
        _ => return None,
    };
    Some(format!("-dict={}", folder().join("dict").join(format!("{name}.dict")).display()))
}

/// A number of libFuzzer's last lines; zero where it died before them.
fn stat(output: &str, name: &str) -> u64 {
    let line = output.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
    line.and_then(|line| line.trim_start_matches(':').trim().parse().ok()).unwrap_or_default()
}

/// What a target says when it fails.
fn reason(output: &str) -> String {
    let mut lines =
        output.lines().skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR:"));
    lines.by_ref().take(3).collect::<Vec<_>>().join(" ")
}

/// Adds inputs that together reach what the grown ones reach (how often counts for nothing); where these are too many,
/// some of every size.
fn keep(target: &str, sanitizer: &str, kept: &Path, grown: &Path) -> Result<()> {
    let picked = build_folder().join("picked").join(target);
    let _ = fs::remove_dir_all(&picked);
    fs::create_dir_all(&picked)?;
    // What is kept comes first, so that only what adds to it is picked.
    for (file, _) in files(kept)? {
        fs::copy(&file, picked.join(file.file_name().unwrap_or_default()))?;
    }
    let folders = [&picked, grown].map(|folder| folder.display().to_string());
    let merge = cargo_fuzz("run", sanitizer, &[target]).args(folders).args([
        "--",
        "-set_cover_merge=1",
        "-use_counters=0",
    ]);
    merge.within(BUILD).logged(&format!("fuzz-keep-{target}"))?.ok()?;
    let known = files(kept)?;
    let (count, mut bytes) = (known.len(), known.iter().map(|(_, size)| size).sum::<u64>());
    let mut fresh = files(&picked)?;
    fresh.retain(|(file, _)| file.file_name().is_some_and(|name| !kept.join(name).exists()));
    fresh.sort_by_key(|(_, size)| *size);
    let room = MOST.0.saturating_sub(count).min(fresh.len());
    let (of, picks) = (fresh.len(), (0..room).map(|at| at * fresh.len() / room));
    println!("   {target}: {room} of {of} inputs are kept beside {count}");
    for (file, size) in picks.map(|at| &fresh[at]) {
        bytes += size;
        if bytes > MOST.1 {
            break;
        }
        fs::copy(file, kept.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// Files with their sizes.
fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        all.push((entry.path(), entry.metadata()?.len()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{reason, stat};

    #[test]
    fn reads_the_last_lines_of_the_fuzzer() {
        let output = "Done 512 runs in 3 second(s)\nstat::number_of_executed_units: 512\n\
                      stat::average_exec_per_sec:     170\nstat::new_units_added:          7\n";
        assert_eq!(stat(output, "number_of_executed_units"), 512);
        assert_eq!(stat(output, "average_exec_per_sec"), 170);
        assert_eq!(stat("cannot compile", "number_of_executed_units"), 0);
    }

    #[test]
    fn says_why_a_target_failed() {
        let output = "#1 NEW\nthread '<unnamed>' panicked at src/id.rs:7:5:\nno id\nnote: run with\nmore\n";
        assert_eq!(reason(output), "thread '<unnamed>' panicked at src/id.rs:7:5: no id note: run with");
        assert_eq!(
            reason("==1== ERROR: libFuzzer: timeout after 10 seconds"),
            "==1== ERROR: libFuzzer: timeout after 10 seconds"
        );
    }
}
