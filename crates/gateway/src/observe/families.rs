//! All metrics: name, kind and help text. Names are a contract with dashboards and alerts.

use metrics::{Counter, Gauge, Histogram};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder as _, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// The kind of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter as C, Gauge as G, Histogram as H};

/// Name, kind, help. Each help text must make sense alone, in a query editor.
pub(super) const FAMILIES: &[(&str, Kind, &str)] = &[
    (
        "mcpool_breaker_state",
        G,
        "1 for the current state of the backend's circuit breaker; closed means that calls flow",
    ),
    ("mcpool_breaker_transitions_total", C, "State changes of the backend's circuit breaker"),
    (
        "mcpool_breaker_incidents_total",
        C,
        "Failures that the backend's circuit breaker counted, by kind; a broken connection counts once",
    ),
    ("mcpool_breaker_rejected_total", C, "Calls and handshakes that the backend's circuit breaker rejected"),
    ("mcpool_breaker_probes_total", C, "Probes of an open circuit, by result"),
    (BREAKER_SECONDS, C, "Seconds that the backend's circuit breaker spent in each state"),
    (
        "mcpool_breaker_slow_start_limit",
        G,
        "Maximum number of calls in progress while a backend recovers; 0 means no such limit",
    ),
    ("mcpool_sessions", G, "Sessions with the backend, by mode and state"),
    ("mcpool_sessions_opening", G, "Handshakes with the backend in progress"),
    ("mcpool_sessions_limit", G, "Maximum number of sessions with the backend (max_sessions)"),
    (
        "mcpool_sessions_opened_total",
        C,
        "Sessions with the backend that became ready, by reason for opening them",
    ),
    ("mcpool_sessions_closed_total", C, "Sessions with the backend that ended, by reason"),
    (
        "mcpool_sessions_demoted_total",
        C,
        "Times that sharing ended because the backend stores state per session, by evidence",
    ),
    ("mcpool_handshake_duration_seconds", H, "Duration of each handshake step, successful or not"),
    (
        "mcpool_probe_duration_seconds",
        H,
        "Time until a health check of a silent session was answered or failed",
    ),
    ("mcpool_subscriptions", G, "Resources subscribed to at the backend on behalf of agents"),
    ("mcpool_leases_in_use", G, "Calls in progress on sessions of the backend"),
    ("mcpool_leases_limit", G, "Maximum number of calls in progress on the backend's present sessions"),
    (
        "mcpool_lease_wait_seconds",
        H,
        "Time that calls waited for a session; zero for calls that did not wait",
    ),
    ("mcpool_waiting_calls", G, "Calls in the queue for a session of the backend"),
    ("mcpool_waiting_agents", G, "Agents that wait for a session of their own with the backend"),
    ("mcpool_oldest_wait_seconds", G, "Longest current wait of a call or agent for a session"),
    ("mcpool_queue_limit", G, "Maximum number of queued calls (queue)"),
    ("mcpool_waiting_bytes", G, "Size of the queued calls"),
    ("mcpool_queue_bytes_limit", G, "Maximum size of the queued calls (queue_bytes)"),
    (
        "mcpool_queue_rejected_total",
        C,
        "Calls that were rejected instead of queued, or that waited too long, by reason",
    ),
    (
        "mcpool_requests_total",
        C,
        "Requests of agents, by method, result, and whether the backend executed them",
    ),
    ("mcpool_request_duration_seconds", H, "Time from a request of an agent to its answer"),
    ("mcpool_upstream_duration_seconds", H, "Time the backend took to answer a call"),
    ("mcpool_retries_total", C, "Calls that were sent again, by the state of the attempt before"),
    ("mcpool_upstream_status_total", C, "HTTP answers of the backend outside 2xx, by class"),
    ("mcpool_agent_sessions", G, "Agent sessions in memory, by transport and era"),
    (
        "mcpool_agent_evictions_total",
        C,
        "Agent sessions dropped from memory for newer ones; their ids bring them back",
    ),
    ("mcpool_limit", G, "Limit of the gateway as a whole, by its key in the configuration"),
    ("mcpool_limit_used", G, "Current use of a limit of the gateway, by its key in the configuration"),
    (
        "mcpool_parked_calls",
        G,
        "Calls of agents without session that wait for the answer to a question of the server",
    ),
    ("mcpool_parkings_total", C, "Calls of agents without session whose server asked a question, by result"),
    ("mcpool_agent_restores_total", C, "Valid ids of agent sessions that were not in memory, by result"),
    (
        "mcpool_agent_responses_total",
        C,
        "HTTP responses to agents, by transport, status and cause of the status",
    ),
    (
        "mcpool_agent_refused_total",
        C,
        "Connections, sessions and requests of agents that were rejected, by kind",
    ),
    (
        "mcpool_authorization_ignored_total",
        C,
        "Authorization headers of agents that were not forwarded to a backend",
    ),
    ("mcpool_messages_dropped_total", C, "Messages that could not be delivered, by kind"),
    ("mcpool_slow_agents_closed_total", C, "Streams closed because their agent did not read"),
    (
        "mcpool_buffered_bytes",
        G,
        "Memory held for agents: bodies, calls, unread messages, events kept for a resume",
    ),
    ("mcpool_buffered_limit_bytes", G, "Maximum memory held for agents (limits.buffered)"),
    (
        "mcpool_overload_state",
        G,
        "Memory pressure: 1 for the current state (calm, holding, refusing, shedding)",
    ),
    ("mcpool_overload_transitions_total", C, "Changes of the memory pressure, by the state entered"),
    ("mcpool_shed_total", C, "Work delayed, rejected or dropped under memory pressure, by action"),
    ("mcpool_replay_bytes", G, "Size of the events kept so that agents can resume a stream"),
    ("mcpool_build_info", G, "1, with the version and revision that is running"),
    ("mcpool_backend_info", G, "1, with the transport, era, mode and mode reason of the backend"),
    ("mcpool_backend_up", G, "1 if the backend's circuit is closed and its last handshake succeeded"),
    ("mcpool_backend_ready", G, "1 if the backend has a session that is ready"),
    ("mcpool_backend_paused", G, "1 while an operator has paused the backend: its calls wait"),
    ("mcpool_backend_drained", G, "1 while an operator has drained the backend: its calls are rejected"),
    ("mcpool_draining", G, "1 while the gateway shuts down"),
    ("mcpool_config_last_reload_successful", G, "1 if the configuration in the file is in force"),
    (
        "mcpool_config_last_reload_success_timestamp_seconds",
        G,
        "Time of the last configuration put in force, in seconds since 1970",
    ),
    ("mcpool_config_generation", G, "Number of configurations put in force, the first one included"),
    ("mcpool_panics_total", C, "Panics that were caught, by task; each is a defect of the gateway"),
    (CPU_SECONDS, C, "CPU time of the process, in seconds"),
    ("process_resident_memory_bytes", G, "Resident memory of the process"),
    ("process_virtual_memory_bytes", G, "Virtual memory of the process"),
    ("process_open_fds", G, "Open file descriptors"),
    ("process_max_fds", G, "Maximum number of open file descriptors"),
    ("process_threads", G, "Threads of the process"),
    ("process_start_time_seconds", G, "Start time of the process, in seconds since 1970"),
];

/// Written by [`super::fractions`].
pub(super) const BREAKER_SECONDS: &str = "mcpool_breaker_state_seconds_total";
/// Written by [`super::process`].
pub(super) const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// 0.5 ms to 60 s, in seconds.
pub(super) const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Buckets for rare events.
const FEW_BUCKETS: &[f64] = &[0.01, 0.05, 0.25, 1.0, 5.0];
/// The families with few buckets.
const RARE: [&str; 2] = ["mcpool_handshake_duration_seconds", "mcpool_probe_duration_seconds"];

/// Label names and values of one series.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

const META: Metadata<'static> = Metadata::new("mcpool", Level::INFO, None);

/// Creates a recorder with all families.
pub(super) fn recorder() -> Result<PrometheusRecorder, String> {
    let mut builder = PrometheusBuilder::new().set_buckets(BUCKETS).map_err(|why| why.to_string())?;
    for name in RARE {
        let named = Matcher::Full(name.to_owned());
        builder = builder.set_buckets_for_metric(named, FEW_BUCKETS).map_err(|why| why.to_string())?;
    }
    let recorder = builder.build_recorder();
    describe(&recorder);
    Ok(recorder)
}

/// Describes every family.
fn describe(recorder: &PrometheusRecorder) {
    for (name, kind, help) in FAMILIES {
        let unit = name.ends_with("_seconds").then_some(Unit::Seconds);
        let name = KeyName::from_const_str(name);
        match kind {
            C => recorder.describe_counter(name, unit, (*help).into()),
            G => recorder.describe_gauge(name, unit, (*help).into()),
            H => recorder.describe_histogram(name, unit, (*help).into()),
        }
    }
}

pub(super) fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: Labels<'_>) -> Counter {
    let counter = recorder.register_counter(&key(name, labels, C), &META);
    // A counter must exist before its first event, or its first increase is invisible.
    counter.increment(0);
    counter
}

pub(super) fn gauge(recorder: &PrometheusRecorder, name: &'static str, labels: Labels<'_>) -> Gauge {
    recorder.register_gauge(&key(name, labels, G), &META)
}

pub(super) fn histogram(recorder: &PrometheusRecorder, name: &'static str, labels: Labels<'_>) -> Histogram {
    recorder.register_histogram(&key(name, labels, H), &META)
}

fn key(name: &'static str, labels: Labels<'_>, kind: Kind) -> Key {
    debug_assert!(
        FAMILIES.iter().any(|(known, of, _)| *known == name && *of == kind),
        "{name} is not in the table of families"
    );
    let labels: Vec<Label> =
        labels.iter().map(|(label, value)| Label::new(*label, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

/// Series of one label: one handle per value, all created at start.
pub(super) struct PerValue<T> {
    values: &'static [&'static str],
    handles: Vec<T>,
}

impl<T> PerValue<T> {
    pub(super) fn new(values: &'static [&'static str], make: impl FnMut(&'static str) -> T) -> Self {
        Self { values, handles: values.iter().copied().map(make).collect() }
    }

    /// The handle of this value. Lists are short, with frequent values first.
    pub(super) fn of(&self, value: &str) -> Option<&T> {
        self.values.iter().position(|known| *known == value).and_then(|at| self.handles.get(at))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.values.iter().copied().zip(&self.handles)
    }
}
