//! What the numbers were measured on: a number without its machine is not a measurement.

use std::{fs, process::Command};

use serde_json::{Value, json};

/// The machine, the compiler and the commit.
#[must_use]
pub fn describe() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({
        "cpu": field(&cpuinfo, "model name"),
        "cores": cores,
        "memory": field(&meminfo, "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        // Other work on the machine spoils a run: the one-minute load says whether there was any.
        "load_at_start": fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next(),
        "rustc": output("rustc", &["--version"]),
        "commit": output("git", &["rev-parse", "--short=12", "HEAD"]),
        "uncommitted_changes": !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        "optimised": !cfg!(debug_assertions),
    })
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find(|line| line.starts_with(name))
        .and_then(|line| line.split_once(':'))
        .map_or("unknown", |(_, value)| value.trim())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_named() {
        let machine = describe();
        assert!(machine["cores"].as_u64().unwrap() >= 1);
        assert!(machine["kernel"].as_str().unwrap().contains('.'));
    }

    #[test]
    fn a_missing_field_is_said_to_be_unknown() {
        assert_eq!(field("model name\t: X 1\n", "model name"), "X 1");
        assert_eq!(field("", "model name"), "unknown");
    }
}
