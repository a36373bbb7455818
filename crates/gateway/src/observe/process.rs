//! Process metrics from the operating system, read per scrape. Linux only; elsewhere the series are 0. CPU time is
//! fractional, so it is written by hand (`fractions`).

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use metrics::Gauge;
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{
    backend_gauges::number,
    families::{CPU_SECONDS, gauge},
    fractions,
};

/// The `process_*` series.
pub(super) struct Process {
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Gauge,
}

impl Process {
    pub(super) fn new(recorder: &PrometheusRecorder) -> Self {
        let one = |name| gauge(recorder, name, &[]);
        let process = Self {
            resident: one("process_resident_memory_bytes"),
            virtual_memory: one("process_virtual_memory_bytes"),
            open_fds: one("process_open_fds"),
            max_fds: one("process_max_fds"),
            threads: one("process_threads"),
            start: one("process_start_time_seconds"),
        };
        process.start.set(seconds_now());
        process
    }

    /// Renders the one series that is not a gauge.
    pub(super) fn render(&self) -> String {
        let cpu = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds);
        fractions::head(CPU_SECONDS) + &format!("{CPU_SECONDS} {}\n", cpu.unwrap_or_default())
    }

    pub(super) fn scrape(&self) {
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            let kib = |key| field(&status, key).unwrap_or(0.0) * 1024.0;
            self.resident.set(kib("VmRSS:"));
            self.virtual_memory.set(kib("VmSize:"));
            self.threads.set(field(&status, "Threads:").unwrap_or(0.0));
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // Excludes the folder being read.
            self.open_fds.set(number(fds.count().saturating_sub(1)));
        }
        if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
            self.max_fds.set(field(&limits, "Max open files").unwrap_or(0.0));
        }
    }
}

/// The descriptor limit of this process, if known and limited.
#[must_use]
pub fn max_descriptors() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    most.split_whitespace().next()?.parse().ok()
}

/// Open descriptors and their limit, if known.
#[must_use]
pub fn descriptors() -> Option<(usize, usize)> {
    // Excludes the folder being read.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some((open, max_descriptors()?))
}

/// Seconds since 1970-01-01 UTC.
pub(super) fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// User plus system time. The process name may contain anything, so fields count from its closing bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    // Linux reports 100 ticks per second to user space, whatever the kernel uses.
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// The first number after `key`.
fn field(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 99";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn fields_are_found_by_their_key() {
        assert_eq!(field("VmPeak:\t 9 kB\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12.0));
        assert_eq!(
            field("Max open files            1024                 2048  files", "Max open files"),
            Some(1024.0)
        );
        assert_eq!(field("", "VmRSS:"), None);
    }
}
