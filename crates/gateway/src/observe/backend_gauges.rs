//! Metrics of one backend that are set from snapshots of its circuit and its sessions when they are scraped.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use mcpool_breaker::{ProbeOutcome, Reason, Snapshot, State};
use mcpool_upstream::{BackendStatus, Mode, TrafficState};
use metrics::{Counter, Gauge};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{
    backend::with,
    families::{Labels, PerValue, counter, gauge},
};

/// Metrics set from snapshots at scrape time.
pub(super) struct BackendGauges {
    breaker_state: [Gauge; 3],
    breaker_transitions: Vec<Counter>,
    breaker_rejected: Counter,
    breaker_probes: [Counter; 4],
    breaker_slow_start: Gauge,
    incidents: PerValue<Counter>,
    pub(super) sessions: PerValue<[OnceLock<Gauge>; 4]>,
    sessions_opening: Gauge,
    sessions_limit: Gauge,
    leases_in_use: Gauge,
    leases_limit: Gauge,
    subscriptions: Gauge,
    waiting_calls: Gauge,
    waiting_agents: Gauge,
    oldest_wait: Gauge,
    queue_limit: Gauge,
    waiting_bytes: Gauge,
    queue_bytes_limit: Gauge,
    pub(super) up: Gauge,
    pub(super) ready: Gauge,
    /// Circuit counts of earlier registrations of this name.
    pub(super) carried: Mutex<Carried>,
    paused: Gauge,
    drained: Gauge,
    /// The current `backend_info` series and its labels.
    pub(super) info: Mutex<Option<([&'static str; 4], Gauge)>>,
}

impl BackendGauges {
    pub(super) fn new(recorder: &PrometheusRecorder, name: &Arc<str>) -> Self {
        let level = |family, labels: Labels<'_>| gauge(recorder, family, &with(name, labels));
        let count = |family, labels: Labels<'_>| counter(recorder, family, &with(name, labels));
        let transition = |reason: Reason| {
            let (from, to) = reason.edge();
            let labels = [("from", from.as_str()), ("to", to.as_str()), ("reason", reason.as_str())];
            count("mcpool_breaker_transitions_total", &labels)
        };
        Self {
            breaker_state: State::ALL
                .map(|state| level("mcpool_breaker_state", &[("state", state.as_str())])),
            breaker_transitions: Reason::ALL.into_iter().map(transition).collect(),
            breaker_rejected: count("mcpool_breaker_rejected_total", &[]),
            breaker_probes: ProbeOutcome::ALL
                .map(|outcome| count("mcpool_breaker_probes_total", &[("outcome", outcome.as_str())])),
            breaker_slow_start: level("mcpool_breaker_slow_start_limit", &[]),
            incidents: PerValue::new(INCIDENTS, |kind| {
                count("mcpool_breaker_incidents_total", &[("kind", kind)])
            }),
            sessions: PerValue::new(STANDINGS, |_| Mode::ALL.map(|_| OnceLock::new())),
            sessions_opening: level("mcpool_sessions_opening", &[]),
            sessions_limit: level("mcpool_sessions_limit", &[]),
            leases_in_use: level("mcpool_leases_in_use", &[]),
            leases_limit: level("mcpool_leases_limit", &[]),
            subscriptions: level("mcpool_subscriptions", &[]),
            waiting_calls: level("mcpool_waiting_calls", &[]),
            waiting_agents: level("mcpool_waiting_agents", &[]),
            oldest_wait: level("mcpool_oldest_wait_seconds", &[]),
            queue_limit: level("mcpool_queue_limit", &[]),
            waiting_bytes: level("mcpool_waiting_bytes", &[]),
            queue_bytes_limit: level("mcpool_queue_bytes_limit", &[]),
            up: level("mcpool_backend_up", &[]),
            ready: level("mcpool_backend_ready", &[]),
            carried: Mutex::default(),
            paused: level("mcpool_backend_paused", &[]),
            drained: level("mcpool_backend_drained", &[]),
            info: Mutex::new(None),
        }
    }

    pub(super) fn circuit(&self, circuit: &Snapshot) {
        for (gauge, state) in self.breaker_state.iter().zip(State::ALL) {
            gauge.set(f64::from(circuit.state == state));
        }
        self.breaker_slow_start.set(circuit.slow_start.map_or(0.0, |slow_start| f64::from(slow_start.limit)));
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.time_in = carried.time_before;
        for (sum, (_, time)) in carried.time_in.iter_mut().zip(circuit.time_in) {
            *sum += time;
        }
        let before = carried.counted.iter().copied().chain(std::iter::repeat(0));
        let counted = totals(circuit).into_iter().zip(before);
        for (counter, (now, before)) in self.counters().zip(counted) {
            counter.absolute(before + now);
        }
    }

    /// Counters in the order of [`totals`].
    fn counters(&self) -> impl Iterator<Item = &Counter> {
        let incidents = self.incidents.iter().map(|(_, counter)| counter);
        self.breaker_transitions
            .iter()
            .chain(&self.breaker_probes)
            .chain([&self.breaker_rejected])
            .chain(incidents)
    }

    pub(super) fn status(&self, status: &BackendStatus) {
        self.sessions_opening.set(number(status.opening));
        self.sessions_limit.set(number(status.places.1));
        self.leases_in_use.set(number(status.leases.0));
        self.leases_limit.set(number(status.leases.1));
        self.subscriptions.set(number(status.subscriptions));
        let waiting = &status.waiting;
        self.waiting_calls.set(number(waiting.calls));
        self.waiting_agents.set(number(status.applicants.0));
        self.queue_limit.set(number(waiting.limits.calls));
        self.waiting_bytes.set(number(waiting.bytes));
        self.queue_bytes_limit.set(number(waiting.limits.bytes));
        let oldest = waiting.oldest.max(status.applicants.1);
        self.oldest_wait.set(oldest.unwrap_or_default().as_secs_f64());
        self.paused.set(f64::from(status.traffic.0 == TrafficState::Paused));
        self.drained.set(f64::from(status.traffic.0 == TrafficState::Drained));
    }
}

/// Counts of ended registrations of a name, so that its counters continue.
#[derive(Default)]
pub(super) struct Carried {
    pub(super) counted: Vec<u64>,
    pub(super) time_before: [Duration; 3],
    /// Including the current registration's, as of the last scrape.
    pub(super) time_in: [Duration; 3],
}

/// The circuit's counts: transitions, probes, rejections, incidents by kind.
pub(super) fn totals(circuit: &Snapshot) -> Vec<u64> {
    let of = |kind: &str| -> u64 {
        let is = |known: &&'static str| *known == kind;
        let other = |known: &&'static str| kind == "other" && !INCIDENTS.contains(known);
        circuit.incidents.iter().filter(|(known, _)| is(known) || other(known)).map(|(_, n)| n).sum()
    };
    let transitions = circuit.transitions.iter().map(|(_, times)| *times);
    let probes = circuit.probes.iter().map(|(_, times)| *times);
    let incidents = INCIDENTS.iter().map(|kind| of(kind));
    transitions.chain(probes).chain([circuit.rejected]).chain(incidents).collect()
}

#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

const STANDINGS: &[&str] = &["initializing", "ready", "suspect", "draining", "closed"];
pub(super) const INCIDENTS: &[&str] =
    &["connect", "tls", "broken", "timeout", "gateway", "protocol", "server_error", "other"];
