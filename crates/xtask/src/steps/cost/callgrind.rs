//! A program under callgrind: its instructions are counted from one dump to the next.
//!
//! The subtle thing: a dump is asked for while the program waits, and sets all counters to zero, so that what was counted
//! between two dumps is what the calls between them cost, without start-up and handshakes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::paths;
use crate::harness::run::{Job, Service};

/// A program ends, and a dump is written, within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Instructions by function, without those of the functions it calls.
pub(super) type Functions = BTreeMap<String, u64>;

/// A program that runs under callgrind.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) service: Service,
    /// Dumps are this file with a number.
    file: PathBuf,
    dumps: u32,
}

impl Counted {
    /// Starts a program with one worker thread, so that work does not wander between threads by chance.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(name: &str, program: &Path, args: &[&str]) -> Result<Self> {
        fs::create_dir_all(paths::logs())?;
        let file = paths::logs().join(format!("{name}.callgrind"));
        let out = format!("--callgrind-out-file={}", file.display());
        let program = program.display().to_string();
        let words = ["--tool=callgrind", &out, "--compress-strings=no", "--compress-pos=no", &program];
        let state = paths::logs().join("state").display().to_string();
        let job = Job::new("valgrind").args(words).args(args).env("TOKIO_WORKER_THREADS", "1");
        let service = job.env("MCPOOL_LOG", "info").env("XDG_STATE_HOME", &state).service(name)?;
        Ok(Self { service, file, dumps: 0 })
    }

    /// What was executed since the last dump, by function.
    ///
    /// # Errors
    /// When no dump is written.
    pub(super) fn dump(&mut self) -> Result<Functions> {
        self.dumps += 1;
        let file = self.file.with_extension(format!("callgrind.{}", self.dumps));
        if file.exists() {
            fs::remove_file(&file)?;
        }
        let control = Job::new("callgrind_control").args(["--dump", &self.service.pid().to_string()]);
        let ended = control.within(PATIENCE).logged("callgrind-control")?;
        ended.ok()?;
        let dump = fs::read(&file).with_context(|| format!("no dump: {}", ended.output.trim()))?;
        fs::remove_file(&file)?;
        read(&String::from_utf8_lossy(&dump))
    }

    /// Ends it as an operator does: callgrind then takes its pipes away.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) fn end(mut self) -> Result<()> {
        self.service.signal("TERM")?;
        self.service.end(PATIENCE)?;
        let _ = fs::remove_file(&self.file);
        Ok(())
    }
}

/// The instructions of each function in a dump.
fn read(dump: &str) -> Result<Functions> {
    let mut functions = Functions::new();
    let mut sum = 0;
    let (mut function, mut is_of_a_call) = (None, false);
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            function = Some(plain(name));
        } else if line.starts_with("calls=") {
            is_of_a_call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-' || c == '*') {
            // The line after a call has the instructions of the function that was called.
            if std::mem::take(&mut is_of_a_call) {
                continue;
            }
            let count =
                line.split(' ').nth(1).map_or(Ok(0), str::parse::<u64>).with_context(|| line.to_owned())?;
            *functions.entry(function.clone().context("a count before any function")?).or_default() += count;
            sum += count;
        }
    }
    let totals =
        dump.lines().find_map(|line| line.strip_prefix("totals: ")).context("a dump with its sum")?;
    let totals: u64 = totals.trim().parse()?;
    ensure!(sum == totals && sum > 0, "the functions have {sum} instructions, the dump {totals}");
    Ok(functions)
}

/// The name of a function without what differs from build to build: its hash, and what the linker or callgrind added.
fn plain(name: &str) -> String {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name = name.rsplit_once('\'').filter(|(_, depth)| is_number(depth)).map_or(name, |(name, _)| name);
    let name = name.split_once(".llvm.").map_or(name, |(name, _)| name);
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.rsplit_once("::h").filter(|(_, hash)| is_hash(hash)).map_or(name, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_call_is_not_counted_for_the_caller() {
        let dump = "events: Ir\nfn=a::b::h0123456789abcdef\n0 10\ncfn=c\ncalls=3 0\n0 500\n0 5\n\nfn=c\n0 500\n\
                    fn=a::b::hfedcba9876543210.llvm.12'2\n0 1\n\ntotals: 516\n";
        let functions = read(dump).expect("a dump");
        assert_eq!(
            functions.into_iter().collect::<Vec<_>>(),
            [("a::b".to_owned(), 16), ("c".to_owned(), 500)]
        );
        assert!(read("fn=a\n0 10\ntotals: 11\n").is_err(), "a dump that was misread");
        assert!(read("").is_err());
    }
}
