//! The series of one backend. The handles stand in arrays by enum value: a call looks nothing up by string but the
//! method, in a short list with the hot one first.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use mcpool_breaker::{ProbeOutcome, Reason, State};
use mcpool_front::Outcome;
use mcpool_upstream::{BackendStatus, CloseReason, Event, Evidence, Mode, OpenReason, Traffic};
use mcpool_wire::{Era, Executed};
use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

use super::{
    families::{Labels, PerValue, counter, gauge, histogram},
    fractions,
};
use crate::{
    route::{Registered, mode_word},
    stack::{StackObserve, now},
};

/// The series of one backend.
pub(super) struct BackendMetrics {
    name: Arc<str>,
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    requests: Vec<Counter>,
    durations: Vec<OnceLock<Histogram>>,
    upstream: Vec<OnceLock<Histogram>>,
    opened: Vec<Counter>,
    closed: Vec<Counter>,
    demoted: Vec<Counter>,
    handshakes: PerValue<[Histogram; 2]>,
    probes: [Histogram; 2],
    statuses: PerValue<Counter>,
    lease_wait: Histogram,
    queue_rejected: PerValue<Counter>,
    retries: PerValue<Counter>,
    gauges: BackendGauges,
}

/// What is read from snapshots when somebody scrapes.
struct BackendGauges {
    breaker_state: [Gauge; 3],
    breaker_transitions: Vec<Counter>,
    breaker_rejected: Counter,
    breaker_probes: [Counter; 4],
    breaker_slow_start: Gauge,
    incidents: PerValue<Counter>,
    sessions: PerValue<[Gauge; 4]>,
    sessions_opening: Gauge,
    sessions_limit: Gauge,
    leases_in_use: Gauge,
    leases_limit: Gauge,
    subscriptions: Gauge,
    waiting_calls: Gauge,
    oldest_wait: Gauge,
    queue_limit: Gauge,
    waiting_bytes: Gauge,
    queue_bytes_limit: Gauge,
    up: Gauge,
    ready: Gauge,
    /// What the circuits of earlier registrations of the name counted.
    carried: Mutex<Carried>,
    paused: Gauge,
    drained: Gauge,
    /// The series of `backend_info` that is 1, and its labels.
    info: Mutex<Option<([&'static str; 4], Gauge)>>,
}

impl BackendMetrics {
    pub(super) fn new(recorder: &Arc<PrometheusRecorder>, name: &Arc<str>) -> Self {
        let one = |family, labels: Labels<'_>| counter(recorder, family, &with(name, labels));
        let timer = |family, labels: Labels<'_>| histogram(recorder, family, &with(name, labels));
        let metrics = Self {
            name: name.clone(),
            recorder: recorder.clone(),
            handle: recorder.handle(),
            requests: requests(recorder, name),
            durations: (0..METHODS.len() * Outcome::ALL.len()).map(|_| OnceLock::new()).collect(),
            upstream: METHODS.iter().map(|_| OnceLock::new()).collect(),
            opened: OpenReason::ALL
                .iter()
                .map(|reason| one("mcpool_sessions_opened_total", &[("reason", reason.as_str())]))
                .collect(),
            closed: CloseReason::ALL
                .iter()
                .map(|reason| one("mcpool_sessions_closed_total", &[("reason", reason.as_str())]))
                .collect(),
            demoted: Evidence::ALL
                .iter()
                .map(|evidence| one("mcpool_sessions_demoted_total", &[("evidence", evidence.as_str())]))
                .collect(),
            handshakes: PerValue::new(STEPS, |step| {
                OUTCOMES.map(|outcome| {
                    timer("mcpool_handshake_duration_seconds", &[("step", step), ("outcome", outcome)])
                })
            }),
            probes: OUTCOMES.map(|outcome| timer("mcpool_probe_duration_seconds", &[("outcome", outcome)])),
            statuses: PerValue::new(STATUS_CLASSES, |class| {
                one("mcpool_upstream_status_total", &[("class", class)])
            }),
            lease_wait: timer("mcpool_lease_wait_seconds", &[]),
            queue_rejected: PerValue::new(REJECTIONS, |reason| {
                one("mcpool_queue_rejected_total", &[("reason", reason)])
            }),
            retries: PerValue::new(PHASES, |phase| one("mcpool_retries_total", &[("phase", phase)])),
            gauges: BackendGauges::new(recorder, name),
        };
        metrics.show_every_value();
        metrics
    }

    /// The histograms are made when needed, for there are too many pairs of labels; but each value of each label is
    /// there from the start.
    fn show_every_value(&self) {
        for method in 0..METHODS.len() {
            self.duration(method, Outcome::Ok);
            self.upstream_of(method);
        }
        for outcome in Outcome::ALL {
            self.duration(0, outcome);
        }
    }

    fn duration(&self, method: usize, outcome: Outcome) -> &Histogram {
        self.durations[method * Outcome::ALL.len() + outcome as usize].get_or_init(|| {
            let labels = [("method", METHODS[method]), ("outcome", outcome.as_str())];
            histogram(&self.recorder, "mcpool_request_duration_seconds", &with(&self.name, &labels))
        })
    }

    fn upstream_of(&self, method: usize) -> &Histogram {
        self.upstream[method].get_or_init(|| {
            let labels = [("method", METHODS[method])];
            histogram(&self.recorder, "mcpool_upstream_duration_seconds", &with(&self.name, &labels))
        })
    }

    /// A request of an agent ended.
    pub(super) fn request(&self, method: &str, outcome: Outcome, executed: Executed, took: Duration) {
        let method = method_index(method);
        self.requests[request_index(method, outcome, executed)].increment(1);
        self.duration(method, outcome).record(took.as_secs_f64());
    }

    /// Something happened at the backend. What the circuit counts is read from its own snapshot.
    pub(super) fn event(&self, event: &Event<'_>) {
        match event {
            Event::Rung { step, ok, took } => {
                if let Some(step) = self.handshakes.of(step) {
                    step[outcome_index(*ok)].record(took.as_secs_f64());
                }
            }
            Event::Opened { reason, .. } => at(&self.opened, &OpenReason::ALL, *reason),
            Event::Closed { reason, .. } => at(&self.closed, &CloseReason::ALL, *reason),
            Event::Answered { took, method, .. } => {
                self.upstream_of(method_index(method)).record(took.as_secs_f64());
            }
            Event::Demoted { evidence, .. } => at(&self.demoted, &Evidence::ALL, *evidence),
            Event::Probed { ok, took } => self.probes[outcome_index(*ok)].record(took.as_secs_f64()),
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

    /// Sets what is read from snapshots.
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
            None => (mode_word(registered.backend.spec().mode), "unknown"),
        };
        let era = status.era.map_or("unknown", Era::as_str);
        self.info([status.transport.unwrap_or("unknown"), era, mode, chosen]);
        for old in leaving.map(|old| old.backend.status()) {
            status.leases = (status.leases.0 + old.leases.0, status.leases.1 + old.leases.1);
            status.waiting.calls += old.waiting.calls;
            status.waiting.bytes += old.waiting.bytes;
            status.waiting.oldest = status.waiting.oldest.max(old.waiting.oldest);
            status.subscriptions += old.subscriptions;
            status.sessions.extend(old.sessions);
        }
        self.gauges.status(&status);
    }

    /// A registration of the name ended: what its circuit counted stays counted.
    pub(super) fn carry(&self, old: &Registered) {
        let circuit = old.breaker.snapshot(now());
        let last = totals(&circuit);
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
            // The values of all four labels are few, so what was once shown may stay, at 0.
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

impl BackendGauges {
    fn new(recorder: &PrometheusRecorder, name: &Arc<str>) -> Self {
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
            sessions: PerValue::new(STANDINGS, |state| {
                Mode::ALL.map(|mode| level("mcpool_sessions", &[("mode", mode.as_str()), ("state", state)]))
            }),
            sessions_opening: level("mcpool_sessions_opening", &[]),
            sessions_limit: level("mcpool_sessions_limit", &[]),
            leases_in_use: level("mcpool_leases_in_use", &[]),
            leases_limit: level("mcpool_leases_limit", &[]),
            subscriptions: level("mcpool_subscriptions", &[]),
            waiting_calls: level("mcpool_waiting_calls", &[]),
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

    fn circuit(&self, circuit: &mcpool_breaker::Snapshot) {
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

    /// In the order of [`totals`].
    fn counters(&self) -> impl Iterator<Item = &Counter> {
        let incidents = self.incidents.iter().map(|(_, counter)| counter);
        self.breaker_transitions
            .iter()
            .chain(&self.breaker_probes)
            .chain([&self.breaker_rejected])
            .chain(incidents)
    }

    fn status(&self, status: &BackendStatus) {
        for (state, gauges) in self.sessions.iter() {
            for (gauge, mode) in gauges.iter().zip(Mode::ALL) {
                let is = |s: &&mcpool_upstream::SessionStatus| s.standing == state && s.mode == mode;
                gauge.set(number(status.sessions.iter().filter(is).count()));
            }
        }
        self.sessions_opening.set(number(status.opening));
        self.sessions_limit.set(number(status.places.1));
        self.leases_in_use.set(number(status.leases.0));
        self.leases_limit.set(number(status.leases.1));
        self.subscriptions.set(number(status.subscriptions));
        let waiting = &status.waiting;
        self.waiting_calls.set(number(waiting.calls));
        self.queue_limit.set(number(waiting.limits.calls));
        self.waiting_bytes.set(number(waiting.bytes));
        self.queue_bytes_limit.set(number(waiting.limits.bytes));
        self.oldest_wait.set(waiting.oldest.unwrap_or_default().as_secs_f64());
        self.paused.set(f64::from(status.traffic.0 == Traffic::Paused));
        self.drained.set(f64::from(status.traffic.0 == Traffic::Drained));
    }
}

impl StackObserve for BackendMetrics {
    fn leased(&self, waited: Duration) {
        self.lease_wait.record(waited.as_secs_f64());
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

/// What the registrations of a name that ended have counted, for the counters to go on from.
#[derive(Default)]
struct Carried {
    counted: Vec<u64>,
    time_before: [Duration; 3],
    /// With that of the registration there is, as of the last look.
    time_in: [Duration; 3],
}

/// What a circuit has counted so far: transitions, probes, refusals, incidents by kind.
fn totals(circuit: &mcpool_breaker::Snapshot) -> Vec<u64> {
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

fn requests(recorder: &PrometheusRecorder, name: &Arc<str>) -> Vec<Counter> {
    let mut requests = Vec::with_capacity(METHODS.len() * Outcome::ALL.len() * EXECUTED.len());
    for method in METHODS {
        for outcome in Outcome::ALL {
            for executed in EXECUTED {
                let labels =
                    [("method", *method), ("outcome", outcome.as_str()), ("executed", executed.as_str())];
                requests.push(counter(recorder, "mcpool_requests_total", &with(name, &labels)));
            }
        }
    }
    requests
}

fn request_index(method: usize, outcome: Outcome, executed: Executed) -> usize {
    (method * Outcome::ALL.len() + outcome as usize) * EXECUTED.len() + executed as usize
}

/// Anything that agents do not ask for by that name is `other`, the last.
fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

fn outcome_index(ok: bool) -> usize {
    usize::from(!ok)
}

fn at<E: PartialEq>(counters: &[Counter], all: &[E], value: E) {
    if let Some(counter) = all.iter().position(|known| *known == value).and_then(|at| counters.get(at)) {
        counter.increment(1);
    }
}

fn with<'a>(name: &'a Arc<str>, labels: Labels<'a>) -> Vec<(&'static str, &'a str)> {
    std::iter::once(("backend", name.as_ref())).chain(labels.iter().copied()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

/// Requests agents make; the hot one first, `other` last.
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
const OUTCOMES: [&str; 2] = ["ok", "failed"];
const STEPS: &[&str] = &["connect", "initialize", "initialized", "listen", "ping", "list"];
const STATUS_CLASSES: &[&str] = &["4xx", "429", "5xx", "lost"];
pub(super) const REJECTIONS: &[&str] =
    &["full", "bytes", "displaced", "timeout", "circuit_open", "retry_budget"];
const PHASES: &[&str] = &["not_sent", "refused", "maybe_sent"];
const STANDINGS: &[&str] = &["initializing", "ready", "suspect", "draining", "closed"];
pub(super) const INCIDENTS: &[&str] =
    &["connect", "tls", "broken", "timeout", "gateway", "protocol", "other"];

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
        // What servers ask of agents; an agent that asks it is refused and counted as `other`.
        let of_servers = ["sampling/createMessage", "elicitation/create", "roots/list"];
        for label in mcpool_wire::Method::labels().filter(|l| !notifications(l) && !of_servers.contains(l)) {
            assert!(METHODS.contains(&label), "{label}");
        }
    }
}
