//! Every metric there is: name, kind, and what it says. The names are a contract with dashboards and alerts.

use metrics::{Counter, Gauge, Histogram};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder as _, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter as C, Gauge as G, Histogram as H};

/// Name, kind, help. Each help text is read alone, in the query field of whoever looks for a series.
pub(super) const FAMILIES: &[(&str, Kind, &str)] = &[
    (
        "mcpool_breaker_state",
        G,
        "1 for the state the circuit of the backend is in; closed means that traffic flows",
    ),
    ("mcpool_breaker_transitions_total", C, "Changes of state of the circuit of the backend"),
    (
        "mcpool_breaker_incidents_total",
        C,
        "Incidents the circuit of the backend counted, by kind; one broken connection is one",
    ),
    ("mcpool_breaker_rejected_total", C, "Calls and handshakes the circuit of the backend refused"),
    ("mcpool_breaker_probes_total", C, "Probes of an open circuit, by how they ended"),
    (BREAKER_SECONDS, C, "Seconds the circuit of the backend spent in each state"),
    (
        "mcpool_breaker_slow_start_limit",
        G,
        "Calls in flight at most while a backend recovers; 0 means no such limit",
    ),
    ("mcpool_sessions", G, "Sessions with the backend, by mode and state"),
    ("mcpool_sessions_opening", G, "Handshakes with the backend under way"),
    ("mcpool_sessions_limit", G, "Most sessions with the backend (max_sessions)"),
    (
        "mcpool_sessions_opened_total",
        C,
        "Sessions with the backend that became ready, by why they were opened",
    ),
    ("mcpool_sessions_closed_total", C, "Sessions with the backend that ended, by why"),
    ("mcpool_sessions_demoted_total", C, "Times sharing of sessions was withdrawn, by what was seen"),
    (
        "mcpool_handshake_duration_seconds",
        H,
        "Time of each step to a ready session, whether it succeeded or not",
    ),
    ("mcpool_probe_duration_seconds", H, "Time a silent session took to answer a probe, or not to"),
    ("mcpool_subscriptions", G, "Resources that are subscribed to with the backend for its agents"),
    ("mcpool_leases_in_use", G, "Calls in flight on sessions of the backend"),
    ("mcpool_leases_limit", G, "Most calls in flight on the sessions of the backend that there are"),
    ("mcpool_lease_wait_seconds", H, "Time calls waited for a session; zero for calls that did not wait"),
    ("mcpool_waiting_calls", G, "Calls that wait for a session of the backend"),
    ("mcpool_waiting_agents", G, "Agents that wait for a session of their own with the backend"),
    (
        "mcpool_oldest_wait_seconds",
        G,
        "How long the call or agent that waits longest for a session has waited",
    ),
    ("mcpool_queue_limit", G, "Most calls that may wait for the backend (queue)"),
    ("mcpool_waiting_bytes", G, "Bytes of the calls that wait for a session of the backend"),
    ("mcpool_queue_bytes_limit", G, "Most bytes of calls that may wait for the backend (queue_bytes)"),
    (
        "mcpool_queue_rejected_total",
        C,
        "Calls that were refused instead of waiting, or that waited too long, by reason",
    ),
    (
        "mcpool_requests_total",
        C,
        "Requests of agents by method, how they ended, and whether the backend ran them",
    ),
    ("mcpool_request_duration_seconds", H, "Time from an agent's request to its answer"),
    ("mcpool_upstream_duration_seconds", H, "Time the backend took to answer a call"),
    ("mcpool_retries_total", C, "Calls sent again, by what was known of the attempt before"),
    ("mcpool_upstream_status_total", C, "HTTP answers of the backend outside 2xx, by class"),
    ("mcpool_agent_sessions", G, "Agent sessions that are held, by transport and era"),
    ("mcpool_agent_evictions_total", C, "Agent sessions that gave way to others; their ids bring them back"),
    ("mcpool_limit", G, "Most there may be, by the key of the limit in the configuration"),
    ("mcpool_limit_used", G, "How much of a limit of the configuration is taken, by its key"),
    ("mcpool_parked_calls", G, "Calls that wait for their callers to answer what a server asked"),
    ("mcpool_parkings_total", C, "Calls whose callers were asked something, by what became of them"),
    (
        "mcpool_agent_restores_total",
        C,
        "Valid ids of agent sessions that were not held, by what became of them",
    ),
    (
        "mcpool_agent_responses_total",
        C,
        "HTTP responses to agents, by transport, status and who determined the status",
    ),
    (
        "mcpool_agent_refused_total",
        C,
        "Connections, sessions and requests of agents that were turned away, by kind",
    ),
    (
        "mcpool_authorization_ignored_total",
        C,
        "Authorization headers of agents that were not forwarded to a backend",
    ),
    ("mcpool_messages_dropped_total", C, "Messages that could be delivered to nobody, by kind"),
    ("mcpool_slow_agents_closed_total", C, "Streams closed because their agent does not read"),
    (
        "mcpool_buffered_bytes",
        G,
        "Bytes kept for agents: bodies, calls, messages to be read, events kept for a resume",
    ),
    ("mcpool_buffered_limit_bytes", G, "Most bytes that may be kept for agents (limits.buffered)"),
    ("mcpool_overload_state", G, "1 for how short memory for agents is; calm means that everything is taken"),
    (
        "mcpool_overload_transitions_total",
        C,
        "Changes of how short memory for agents is, by the state entered",
    ),
    (
        "mcpool_shed_total",
        C,
        "Work held back, refused or let go because memory for agents is short, by action",
    ),
    ("mcpool_replay_bytes", G, "Bytes of events that are kept for agents to resume a stream"),
    ("mcpool_build_info", G, "1, with the version and revision that is running"),
    ("mcpool_backend_info", G, "1, with what is known of the backend: transport, era, mode and why"),
    ("mcpool_backend_up", G, "1 if the circuit of the backend is closed and its last handshake succeeded"),
    ("mcpool_backend_ready", G, "1 if a session with the backend is ready"),
    ("mcpool_backend_paused", G, "1 while the operator has paused the backend: its calls wait"),
    ("mcpool_backend_drained", G, "1 while the operator has drained the backend: its calls are refused"),
    ("mcpool_draining", G, "1 while the gateway shuts down"),
    ("mcpool_config_last_reload_successful", G, "1 if the configuration in the file is in force"),
    (
        "mcpool_config_last_reload_success_timestamp_seconds",
        G,
        "When a configuration was last put in force, in seconds since 1970",
    ),
    ("mcpool_config_generation", G, "How many configurations were put in force, the first one included"),
    ("mcpool_panics_total", C, "Panics that were caught, by task; each is a fault of the gateway"),
    (CPU_SECONDS, C, "CPU time the process used, in seconds"),
    ("process_resident_memory_bytes", G, "Memory the process has in use"),
    ("process_virtual_memory_bytes", G, "Address space the process has in use"),
    ("process_open_fds", G, "Descriptors the process has open"),
    ("process_max_fds", G, "Most descriptors the process may have open"),
    ("process_threads", G, "Threads of the process"),
    ("process_start_time_seconds", G, "When the process started, in seconds since 1970"),
];

/// Written by [`super::fractions`].
pub(super) const BREAKER_SECONDS: &str = "mcpool_breaker_state_seconds_total";
/// Written by [`super::process`].
pub(super) const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// 0.5 ms to 60 s, in seconds.
pub(super) const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What happens seldom, by step: fewer will do.
const FEW_BUCKETS: &[f64] = &[0.01, 0.05, 0.25, 1.0, 5.0];
/// The families with few buckets.
const RARE: [&str; 2] = ["mcpool_handshake_duration_seconds", "mcpool_probe_duration_seconds"];

/// Label names and values of one series.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

const META: Metadata<'static> = Metadata::new("mcpool", Level::INFO, None);

/// A recorder that knows every family.
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
    // A series must exist before its first event, or its first increase is never seen.
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

/// The series of one label: one handle per value, all there from the start.
pub(super) struct PerValue<T> {
    values: &'static [&'static str],
    handles: Vec<T>,
}

impl<T> PerValue<T> {
    pub(super) fn new(values: &'static [&'static str], make: impl FnMut(&'static str) -> T) -> Self {
        Self { values, handles: values.iter().copied().map(make).collect() }
    }

    /// The handle of this value; the lists are short, and the hot values stand first.
    pub(super) fn of(&self, value: &str) -> Option<&T> {
        self.values.iter().position(|known| *known == value).and_then(|at| self.handles.get(at))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.values.iter().copied().zip(&self.handles)
    }
}
