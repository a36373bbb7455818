//! Metrics of one backend. Handles are in arrays indexed by enum; only the method is looked up by string, in a short
//! list with the most frequent first.
//!
//! Scrape size matters: series used by alerts and the dashboard exist at zero from the start; rare label combinations
//! and histograms appear on first use.

use std::{
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use mcpool_breaker::{Snapshot, State};
use mcpool_front::Outcome;
use mcpool_upstream::{BackendStatus, CloseReason, Event, Evidence, Mode, OpenReason};
use mcpool_wire::{Era, Executed};
use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

use super::{
    backend_gauges::{BackendGauges, number, totals},
    families::{Labels, PerValue, counter, gauge, histogram},
    fractions,
};
use mcpool_router::{events::StackObserve, registry::Registered, stack::now};

/// Metrics of one backend.
pub(super) struct BackendMetrics {
    name: Arc<str>,
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    requests: Vec<OnceLock<Counter>>,
    durations: Vec<OnceLock<Histogram>>,
    upstream: Vec<OnceLock<Histogram>>,
    opened: Vec<Counter>,
    closed: Vec<OnceLock<Counter>>,
    demoted: Vec<OnceLock<Counter>>,
    handshakes: PerValue<OnceLock<Histogram>>,
    probes: OnceLock<Histogram>,
    statuses: PerValue<Counter>,
    lease_wait: OnceLock<Histogram>,
    queue_rejected: PerValue<Counter>,
    retries: PerValue<Counter>,
    gauges: BackendGauges,
}

impl BackendMetrics {
    pub(super) fn new(recorder: &Arc<PrometheusRecorder>, name: &Arc<str>) -> Self {
        let one = |family, labels: Labels<'_>| counter(recorder, family, &with(name, labels));
        let metrics = Self {
            name: name.clone(),
            recorder: recorder.clone(),
            handle: recorder.handle(),
            requests: empty(METHODS.len() * Outcome::ALL.len() * EXECUTED.len()),
            durations: empty(METHODS.len()),
            upstream: empty(METHODS.len()),
            opened: OpenReason::ALL
                .iter()
                .map(|reason| one("mcpool_sessions_opened_total", &[("reason", reason.as_str())]))
                .collect(),
            closed: empty(CloseReason::ALL.len()),
            demoted: empty(Evidence::ALL.len()),
            handshakes: PerValue::new(STEPS, |_| OnceLock::new()),
            probes: OnceLock::new(),
            statuses: PerValue::new(STATUS_CLASSES, |class| {
                one("mcpool_upstream_status_total", &[("class", class)])
            }),
            lease_wait: OnceLock::new(),
            queue_rejected: PerValue::new(REJECTIONS, |reason| {
                one("mcpool_queue_rejected_total", &[("reason", reason)])
            }),
            retries: PerValue::new(PHASES, |phase| one("mcpool_retries_total", &[("phase", phase)])),
            gauges: BackendGauges::new(recorder, name),
        };
        metrics.show_the_main_ones();
        metrics
    }

    /// Creates the series that alerts and the dashboard compare over time.
    fn show_the_main_ones(&self) {
        for (outcome, executed) in MAIN_OUTCOMES {
            self.counted(0, outcome, executed);
        }
        for reason in MAIN_REASONS {
            self.closed_for(reason);
        }
    }

    fn counted(&self, method: usize, outcome: Outcome, executed: Executed) -> &Counter {
        self.requests[request_index(method, outcome, executed)].get_or_init(|| {
            let labels =
                [("method", METHODS[method]), ("outcome", outcome.as_str()), ("executed", executed.as_str())];
            counter(&self.recorder, "mcpool_requests_total", &with(&self.name, &labels))
        })
    }

    fn closed_for(&self, reason: CloseReason) -> Option<&Counter> {
        let at = CloseReason::ALL.iter().position(|known| *known == reason)?;
        Some(self.closed.get(at)?.get_or_init(|| {
            let labels = [("reason", reason.as_str())];
            counter(&self.recorder, "mcpool_sessions_closed_total", &with(&self.name, &labels))
        }))
    }

    fn demoted_by(&self, evidence: Evidence) -> Option<&Counter> {
        let at = Evidence::ALL.iter().position(|known| *known == evidence)?;
        Some(self.demoted.get(at)?.get_or_init(|| {
            let labels = [("evidence", evidence.as_str())];
            counter(&self.recorder, "mcpool_sessions_demoted_total", &with(&self.name, &labels))
        }))
    }

    fn timer<'a>(
        &'a self,
        of: &'a OnceLock<Histogram>,
        family: &'static str,
        labels: Labels<'_>,
    ) -> &'a Histogram {
        of.get_or_init(|| histogram(&self.recorder, family, &with(&self.name, labels)))
    }

    /// Counts a finished request of an agent.
    pub(super) fn request(&self, method: &str, outcome: Outcome, executed: Executed, took: Duration) {
        let method = method_index(method);
        self.counted(method, outcome, executed).increment(1);
        let labels = [("method", METHODS[method])];
        let timer = self.timer(&self.durations[method], "mcpool_request_duration_seconds", &labels);
        timer.record(took.as_secs_f64());
    }

    /// Counts a backend event. Circuit counts come from its snapshot.
    pub(super) fn event(&self, event: &Event<'_>) {
        match event {
            Event::Rung { step, took, .. } => {
                if let Some(of) = self.handshakes.of(step) {
                    let timer = self.timer(of, "mcpool_handshake_duration_seconds", &[("step", step)]);
                    timer.record(took.as_secs_f64());
                }
            }
            Event::Opened { reason, .. } => at(&self.opened, &OpenReason::ALL, *reason),
            Event::Closed { reason, .. } => {
                self.closed_for(*reason).into_iter().for_each(|counter| counter.increment(1));
            }
            Event::Answered { took, method, .. } => {
                let method = method_index(method);
                let labels = [("method", METHODS[method])];
                let timer = self.timer(&self.upstream[method], "mcpool_upstream_duration_seconds", &labels);
                timer.record(took.as_secs_f64());
            }
            Event::Demoted { evidence, .. } => {
                self.demoted_by(*evidence).into_iter().for_each(|counter| counter.increment(1));
            }
            Event::Probed { took, .. } => {
                self.timer(&self.probes, "mcpool_probe_duration_seconds", &[]).record(took.as_secs_f64());
            }
            Event::Status { class } => {
                if let Some(class) = self.statuses.of(class) {
                    class.increment(1);
                }
            }
            Event::Opening { .. }
            | Event::OpenFailed { .. }
            | Event::ModeChosen { .. }
            | Event::Dropped { .. }
            | Event::Panicked { .. } => {}
        }
    }

    /// Sets the metrics that come from snapshots.
    pub(super) fn scrape<'a>(
        &self,
        registered: &Registered,
        leaving: impl Iterator<Item = &'a Arc<Registered>>,
    ) {
        let circuit = registered.breaker.snapshot(now());
        let mut status = registered.backend.status();
        self.gauges.circuit(&circuit);
        let ready = status.sessions.iter().any(|session| session.standing == "ready");
        self.gauges.ready.set(f64::from(ready));
        self.gauges.up.set(f64::from(circuit.state == State::Closed && status.trouble.is_none()));
        let (mode, chosen) = match status.mode {
            Some(decision) => (decision.mode.as_str(), decision.reason.as_str()),
            None => (registered.backend.spec().mode.as_str(), "unknown"),
        };
        let era = status.era.map_or("unknown", Era::as_str);
        self.info([status.transport.unwrap_or("unknown"), era, mode, chosen]);
        for old in leaving.map(|old| old.backend.status()) {
            status.leases = (status.leases.0 + old.leases.0, status.leases.1 + old.leases.1);
            status.waiting.calls += old.waiting.calls;
            status.waiting.bytes += old.waiting.bytes;
            status.waiting.oldest = status.waiting.oldest.max(old.waiting.oldest);
            status.applicants.0 += old.applicants.0;
            status.subscriptions += old.subscriptions;
            status.sessions.extend(old.sessions);
        }
        self.gauges.status(&status);
        self.sessions(&status);
    }

    /// Sets the session gauges. A pair of mode and state gets a series on first use; `ready` always has one.
    fn sessions(&self, status: &BackendStatus) {
        for (state, gauges) in self.gauges.sessions.iter() {
            for (of, mode) in gauges.iter().zip(Mode::ALL) {
                let is = |s: &&mcpool_upstream::SessionStatus| s.standing == state && s.mode == mode;
                let count = status.sessions.iter().filter(is).count();
                if count == 0 && state != "ready" && of.get().is_none() {
                    continue;
                }
                let labels = [("mode", mode.as_str()), ("state", state)];
                let made = || gauge(&self.recorder, "mcpool_sessions", &with(&self.name, &labels));
                of.get_or_init(made).set(number(count));
            }
        }
    }

    /// Carries over the circuit counts of a registration that ended.
    pub(super) fn carry(&self, circuit: &Snapshot) {
        let last = totals(circuit);
        let mut carried = self.gauges.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.counted.resize(last.len(), 0);
        carried.counted.iter_mut().zip(last).for_each(|(sum, last)| *sum += last);
        carried.time_before.iter_mut().zip(circuit.time_in).for_each(|(sum, (_, time))| *sum += time);
    }

    pub(super) fn render(&self) -> String {
        let mut text = self.handle.render();
        let carried = self.gauges.carried.lock().unwrap_or_else(PoisonError::into_inner);
        fractions::write(&mut text, &self.name, &carried.time_in);
        text
    }

    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn info(&self, labels: [&'static str; 4]) {
        let mut shown = self.gauges.info.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shown {
            Some((known, _)) if *known == labels => return,
            // The old label set remains at 0; there are few.
            Some((_, old)) => old.set(0.0),
            None => {}
        }
        let [transport, era, mode, mode_reason] = labels;
        let named = [("transport", transport), ("era", era), ("mode", mode), ("mode_reason", mode_reason)];
        let series = gauge(&self.recorder, "mcpool_backend_info", &with(&self.name, &named));
        series.set(1.0);
        *shown = Some((labels, series));
    }
}

impl StackObserve for BackendMetrics {
    fn leased(&self, waited: Duration) {
        self.timer(&self.lease_wait, "mcpool_lease_wait_seconds", &[]).record(waited.as_secs_f64());
    }

    fn retried(&self, phase: &'static str) {
        if let Some(phase) = self.retries.of(phase) {
            phase.increment(1);
        }
    }

    fn rejected(&self, reason: &'static str) {
        if let Some(reason) = self.queue_rejected.of(reason) {
            reason.increment(1);
        }
    }
}

fn empty<T>(count: usize) -> Vec<OnceLock<T>> {
    (0..count).map(|_| OnceLock::new()).collect()
}

fn request_index(method: usize, outcome: Outcome, executed: Executed) -> usize {
    (method * Outcome::ALL.len() + outcome as usize) * EXECUTED.len() + executed as usize
}

/// The index of a method; unknown ones are `other`, the last.
fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

fn at<E: PartialEq>(counters: &[Counter], all: &[E], value: E) {
    if let Some(counter) = all.iter().position(|known| *known == value).and_then(|at| counters.get(at)) {
        counter.increment(1);
    }
}

pub(super) fn with<'a>(name: &'a Arc<str>, labels: Labels<'a>) -> Vec<(&'static str, &'a str)> {
    std::iter::once(("backend", name.as_ref())).chain(labels.iter().copied()).collect()
}

/// Agents' request methods, the most frequent first, `other` last.
pub(super) const METHODS: &[&str] = &[
    "tools/call",
    "tools/list",
    "initialize",
    "ping",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "tasks/result",
    "tasks/list",
    "tasks/cancel",
    "server/discover",
    "subscriptions/listen",
    "other",
];
const EXECUTED: [Executed; 3] = [Executed::No, Executed::Maybe, Executed::Yes];
/// Usual outcomes of tool calls, each with its usual execution state.
const MAIN_OUTCOMES: [(Outcome, Executed); 9] = [
    (Outcome::Ok, Executed::Yes),
    (Outcome::ToolError, Executed::Yes),
    (Outcome::RpcError, Executed::Yes),
    (Outcome::Rejected, Executed::No),
    (Outcome::Timeout, Executed::No),
    (Outcome::Timeout, Executed::Maybe),
    (Outcome::Cancelled, Executed::Maybe),
    (Outcome::Lost, Executed::Maybe),
    (Outcome::Lost, Executed::No),
];
/// Close reasons that indicate a fault.
const MAIN_REASONS: [CloseReason; 4] =
    [CloseReason::Broken, CloseReason::Lost, CloseReason::Unresponsive, CloseReason::Fault];
const STEPS: &[&str] = &["connect", "initialize", "initialized", "listen", "ping", "list"];
const STATUS_CLASSES: &[&str] = &["4xx", "429", "5xx", "lost"];
pub(super) const REJECTIONS: &[&str] =
    &["full", "bytes", "displaced", "timeout", "circuit_open", "retry_budget"];
const PHASES: &[&str] = &["not_sent", "refused", "maybe_sent"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_its_own_place() {
        let mut seen = std::collections::BTreeSet::new();
        for method in 0..METHODS.len() {
            for outcome in Outcome::ALL {
                for executed in EXECUTED {
                    assert!(seen.insert(request_index(method, outcome, executed)));
                }
            }
        }
        assert_eq!(seen.last(), Some(&(METHODS.len() * 21 - 1)));
        assert_eq!((method_index("tools/call"), METHODS[method_index("no/such")]), (0, "other"));
    }

    #[test]
    fn every_request_a_method_can_be_has_a_label() {
        let notifications = |label: &&str| label.starts_with("notifications/");
        // Server requests; from an agent they are rejected and counted as `other`.
        let of_servers = ["sampling/createMessage", "elicitation/create", "roots/list"];
        for label in mcpool_wire::Method::labels().filter(|l| !notifications(l) && !of_servers.contains(l)) {
            assert!(METHODS.contains(&label), "{label}");
        }
    }
}
