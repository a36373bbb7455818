//! What the gateway holds, every few seconds: from `/proc` and from its own metrics page.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    admin::{page, sum},
    load::Histogram,
};

/// The gauges that are read, summed over their labels.
const GAUGES: [&str; 8] = [
    "mcpool_leases_in_use",
    "mcpool_waiting_calls",
    "mcpool_agent_sessions",
    "mcpool_sessions",
    "mcpool_buffered_bytes",
    "mcpool_replay_bytes",
    "mcpool_sessions_opening",
    "process_open_fds",
];

/// One look.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Seconds since the load began.
    pub(super) at: f64,
    pub(super) rss_kib: u64,
    pub(super) threads: u64,
    pub(super) gauges: [f64; GAUGES.len()],
    /// Calls answered since the last look, and their latency.
    pub(super) answered: u64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Sample {
    /// Looks at the gateway.
    ///
    /// # Errors
    /// When it does not answer: it is gone, or hangs.
    pub(super) async fn take(
        at: f64,
        pid: u32,
        admin: SocketAddr,
        interval: &Histogram,
    ) -> anyhow::Result<Self> {
        let page = tokio::task::spawn_blocking(move || page(admin, "/metrics")).await??;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .context("no such line in /proc")
        };
        let mut gauges = [0.0; GAUGES.len()];
        for (value, name) in gauges.iter_mut().zip(GAUGES) {
            *value = sum(&page, name).with_context(|| format!("the metrics page has no {name}"))?;
        }
        Ok(Self {
            at,
            rss_kib: number("VmRSS:")?,
            threads: number("Threads:")?,
            gauges,
            answered: interval.len(),
            p50: interval.quantile(0.5),
            p99: interval.quantile(0.99),
        })
    }

    /// A gauge by its name, without the common beginning.
    pub(super) fn gauge(&self, name: &str) -> f64 {
        let at = GAUGES.iter().position(|known| known.ends_with(name));
        at.map_or(f64::NAN, |at| self.gauges[at])
    }

    /// Open descriptors.
    pub(super) fn descriptors(&self) -> f64 {
        self.gauge("open_fds")
    }

    /// What is held on behalf of agents: calls in flight, calls waiting, agent sessions, bytes to be read.
    pub(super) fn held(&self) -> [f64; 4] {
        ["leases_in_use", "waiting_calls", "agent_sessions", "buffered_bytes"].map(|name| self.gauge(name))
    }

    /// For machines.
    pub(super) fn json(&self) -> Value {
        let gauges: serde_json::Map<String, Value> =
            GAUGES.iter().zip(self.gauges).map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "at_s": self.at,
            "rss_kib": self.rss_kib,
            "threads": self.threads,
            "answered": self.answered,
            "p50_ms": millis(self.p50),
            "p99_ms": millis(self.p99),
            "gauges": gauges,
        })
    }

    /// For people, on one line.
    pub(super) fn line(&self) -> String {
        let [in_flight, waiting, agents, buffered] = self.held();
        format!(
            "{:>6.0} s  {:>7} calls  p50/p99 {:>6.1}/{:>7.1} ms  rss {:>6.1} MiB  fds {:>4}  threads {:>2}  sessions \
             {:>3}  agents {agents:>4}  in flight {in_flight:>3}  waiting {waiting:>3}  buffered {buffered:>6}",
            self.at,
            self.answered,
            millis(self.p50),
            millis(self.p99),
            mib(self.rss_kib),
            self.descriptors(),
            self.threads,
            self.gauge("mcpool_sessions"),
        )
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss, reason = "memory sizes are small numbers")]
pub(super) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
