//! All metrics of the gateway in Prometheus' text format, served by the admin listener.
//!
//! Histograms store every sample until [`Metrics::upkeep`] drains them, so it must run even if nothing scrapes. A
//! recorder never forgets a series, so each backend has its own, dropped with it; their outputs are merged by family.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use arc_swap::ArcSwap;
use mcpool_front::{
    AgentEnd, Cause, FrontEvent, Gauges, LimitUse, Parking, PressureLevel, REFUSALS, Readiness, Restore,
    SHED, Transport,
};
use mcpool_upstream::DROPPED_KINDS;
use mcpool_wire::Era;
use metrics::{Counter, Gauge};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

use super::{
    backend::BackendMetrics,
    backend_gauges::number,
    families::{PerValue, counter, gauge, recorder},
    process::{Process, seconds_now},
    text::by_family,
};
use mcpool_router::{gateway::Gateway, registry::Registered};

/// All metrics.
pub struct Metrics {
    handle: PrometheusHandle,
    backends: ArcSwap<HashMap<Arc<str>, Arc<BackendMetrics>>>,
    recorder: PrometheusRecorder,
    responses: Vec<OnceLock<Counter>>,
    refused: PerValue<Counter>,
    authorization_ignored: Counter,
    restores: PerValue<Counter>,
    parked_calls: Gauge,
    parkings: PerValue<Counter>,
    dropped: PerValue<Counter>,
    slow_agents_closed: Counter,
    agent_sessions: [Gauge; 3],
    evictions: Counter,
    limits: PerValue<[Gauge; 2]>,
    buffered_bytes: Gauge,
    buffered_limit: Gauge,
    levels: [Gauge; 4],
    climbs: [Counter; 4],
    shed: PerValue<Counter>,
    replay_bytes: Gauge,
    draining: Gauge,
    panics: PerValue<Counter>,
    config: ConfigSeries,
    process: Process,
}

/// Metrics of the configuration.
struct ConfigSeries {
    successful: Gauge,
    taken_at: Gauge,
    generation: Gauge,
}

impl Metrics {
    /// Creates the metrics without backends.
    ///
    /// # Errors
    /// One sentence if the buckets are invalid, which they are not.
    pub fn new() -> Result<Self, String> {
        let recorder = recorder()?;
        constants(&recorder);
        let sessions = |transport: Transport, era: Era| {
            let labels = [("transport", transport.as_str()), ("era", era.as_str())];
            gauge(&recorder, "mcpool_agent_sessions", &labels)
        };
        Ok(Self {
            handle: recorder.handle(),
            backends: ArcSwap::default(),
            responses: responses(&recorder),
            refused: PerValue::new(&REFUSALS, |kind| {
                counter(&recorder, "mcpool_agent_refused_total", &[("kind", kind)])
            }),
            authorization_ignored: counter(&recorder, "mcpool_authorization_ignored_total", &[]),
            parked_calls: gauge(&recorder, "mcpool_parked_calls", &[]),
            parkings: PerValue::new(PARKINGS, |outcome| {
                counter(&recorder, "mcpool_parkings_total", &[("outcome", outcome)])
            }),
            restores: PerValue::new(RESTORES, |outcome| {
                counter(&recorder, "mcpool_agent_restores_total", &[("outcome", outcome)])
            }),
            dropped: PerValue::new(DROPPED, |kind| {
                counter(&recorder, "mcpool_messages_dropped_total", &[("kind", kind)])
            }),
            slow_agents_closed: counter(&recorder, "mcpool_slow_agents_closed_total", &[]),
            agent_sessions: [
                sessions(Transport::Sse, Era::Legacy),
                sessions(Transport::Http, Era::Legacy),
                sessions(Transport::Http, Era::Modern),
            ],
            evictions: counter(&recorder, "mcpool_agent_evictions_total", &[]),
            limits: PerValue::new(LIMITS, |limit| {
                ["mcpool_limit_used", "mcpool_limit"].map(|name| gauge(&recorder, name, &[("limit", limit)]))
            }),
            buffered_bytes: gauge(&recorder, "mcpool_buffered_bytes", &[]),
            buffered_limit: gauge(&recorder, "mcpool_buffered_limit_bytes", &[]),
            levels: PressureLevel::ALL
                .map(|level| gauge(&recorder, "mcpool_overload_state", &[("state", level.as_str())])),
            climbs: PressureLevel::ALL.map(|level| {
                counter(&recorder, "mcpool_overload_transitions_total", &[("to", level.as_str())])
            }),
            shed: PerValue::new(&SHED, |action| {
                counter(&recorder, "mcpool_shed_total", &[("action", action)])
            }),
            replay_bytes: gauge(&recorder, "mcpool_replay_bytes", &[]),
            draining: gauge(&recorder, "mcpool_draining", &[]),
            panics: PerValue::new(TASKS, |task| counter(&recorder, "mcpool_panics_total", &[("task", task)])),
            config: ConfigSeries::new(&recorder),
            process: Process::new(&recorder),
            recorder,
        })
    }

    /// The metrics of this backend, created on first use. The configuration bounds the names.
    pub(super) fn register(&self, name: &Arc<str>) -> Arc<BackendMetrics> {
        if let Some(known) = self.backend(name) {
            return known;
        }
        let recorder = recorder().expect("the buckets were good enough for the first recorder");
        let made = Arc::new(BackendMetrics::new(&Arc::new(recorder), name));
        self.backends.rcu(|known| {
            let mut all = HashMap::clone(known);
            all.entry(name.clone()).or_insert_with(|| made.clone());
            all
        });
        // Another thread may have been first; its metrics win.
        self.backend(name).unwrap_or(made)
    }

    /// Drops the metrics of a removed backend.
    pub(super) fn forget(&self, name: &str) {
        self.backends.rcu(|known| {
            let mut all = HashMap::clone(known);
            all.remove(name);
            all
        });
    }

    /// Records an applied configuration with its number.
    pub fn configured(&self, generation: u32) {
        self.config.successful.set(1.0);
        self.config.taken_at.set(seconds_now());
        self.config.generation.set(f64::from(generation));
    }

    /// Records a rejected configuration.
    pub fn misconfigured(&self) {
        self.config.successful.set(0.0);
    }

    /// Counts a panic of a task.
    pub(crate) fn panicked(&self, task: &str) {
        if let Some(counter) = self.panics.of(task).or_else(|| self.panics.of("other")) {
            counter.increment(1);
        }
    }

    pub(super) fn backend(&self, name: &str) -> Option<Arc<BackendMetrics>> {
        self.backends.load().get(name).cloned()
    }

    pub(super) fn dropped(&self, kind: &str) {
        if let Some(counter) = self.dropped.of(kind) {
            counter.increment(1);
        }
    }

    pub(super) fn front(&self, event: &FrontEvent<'_>) {
        match event {
            FrontEvent::Responded { transport, code, cause } => {
                let at = response_index(*transport, *code, *cause);
                let made = || response(&self.recorder, *transport, *code, *cause);
                self.responses[at].get_or_init(made).increment(1);
            }
            FrontEvent::CallEnded(end) => {
                if let Some(backend) = self.backends.load().get(end.backend) {
                    backend.request(end.method.label(), end.outcome, end.executed, end.took);
                }
            }
            FrontEvent::Dropped { kind } => self.dropped(kind),
            FrontEvent::SlowAgentClosed => self.slow_agents_closed.increment(1),
            FrontEvent::AuthorizationIgnored => self.authorization_ignored.increment(1),
            FrontEvent::Refused { kind } => {
                if let Some(counter) = self.refused.of(kind) {
                    counter.increment(1);
                }
            }
            FrontEvent::Overload { to, .. } => self.climbs[*to as usize].increment(1),
            FrontEvent::Shed { action } => {
                if let Some(counter) = self.shed.of(action) {
                    counter.increment(1);
                }
            }
            FrontEvent::Panicked { task, .. } => self.panicked(task),
            FrontEvent::Parked { outcome } => {
                if let Some(counter) = self.parkings.of(outcome.as_str()) {
                    counter.increment(1);
                }
            }
            FrontEvent::Restore { outcome } => {
                if let Some(counter) = self.restores.of(outcome.as_str()) {
                    counter.increment(1);
                }
            }
            FrontEvent::AgentClosed { reason: AgentEnd::Evicted, .. } => self.evictions.increment(1),
            FrontEvent::AgentOpened { .. }
            | FrontEvent::AgentGreeted { .. }
            | FrontEvent::AgentClosed { .. } => {}
        }
    }

    /// Sets the use of the global limits.
    pub fn limits(&self, limits: &[LimitUse]) {
        for one in limits {
            if let Some([used, limit]) = self.limits.of(one.name) {
                used.set(number(one.used));
                limit.set(number(one.limit));
            }
        }
    }

    /// Renders all metrics, with snapshots taken now.
    #[must_use]
    pub fn render(&self, gateway: &Gateway, gauges: &Gauges, readiness: Readiness) -> String {
        let leaving = gateway.leaving();
        for registered in gateway.backends() {
            let same = |old: &&Arc<Registered>| old.name == registered.name;
            self.register(&registered.name).scrape(&registered, leaving.iter().filter(same));
        }
        for old in leaving.iter().filter(|old| gateway.backends().iter().all(|now| now.name != old.name)) {
            if let Some(metrics) = self.backend(&old.name) {
                metrics.scrape(old, std::iter::empty());
            }
        }
        let agents = [&gauges.sse_agents, &gauges.http_agents, &gauges.modern_agents];
        for (gauge, agents) in self.agent_sessions.iter().zip(agents) {
            gauge.set(number(agents.load(Ordering::Relaxed)));
        }
        self.parked_calls.set(number(gauges.parked.load(Ordering::Relaxed)));
        self.buffered_bytes.set(number(gauges.buffered_bytes.load(Ordering::Relaxed)));
        self.buffered_limit.set(number(gauges.buffered_limit.load(Ordering::Relaxed)));
        for (gauge, level) in self.levels.iter().zip(PressureLevel::ALL) {
            gauge.set(f64::from(level == gauges.pressure()));
        }
        self.replay_bytes.set(number(gauges.replay_bytes.load(Ordering::Relaxed)));
        self.draining.set(f64::from(readiness == Readiness::Draining));
        self.process.scrape();
        let backends = self.backends.load();
        by_family(
            &[self.handle.render(), self.process.render()]
                .into_iter()
                .chain(backends.values().map(|b| b.render()))
                .collect::<Vec<_>>(),
        )
    }

    /// Drains histogram samples into their buckets.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
        self.backends.load().values().for_each(|backend| backend.upkeep());
    }
}

/// Sets metrics that are constant for the process.
fn constants(recorder: &PrometheusRecorder) {
    let revision = option_env!("MCPOOL_REVISION").unwrap_or("unknown");
    let build = [("version", env!("CARGO_PKG_VERSION")), ("revision", revision)];
    gauge(recorder, "mcpool_build_info", &build).set(1.0);
    // HTTP+SSE has no modern agents; the series states 0.
    let labels = [("transport", Transport::Sse.as_str()), ("era", Era::Modern.as_str())];
    gauge(recorder, "mcpool_agent_sessions", &labels).set(0.0);
}

impl ConfigSeries {
    fn new(recorder: &PrometheusRecorder) -> Self {
        let series = Self {
            successful: gauge(recorder, "mcpool_config_last_reload_successful", &[]),
            taken_at: gauge(recorder, "mcpool_config_last_reload_success_timestamp_seconds", &[]),
            generation: gauge(recorder, "mcpool_config_generation", &[]),
        };
        series.successful.set(1.0);
        series.taken_at.set(seconds_now());
        series.generation.set(1.0);
        series
    }
}

/// Creates at start the counters that alerts wait for, and the usual responses.
fn responses(recorder: &PrometheusRecorder) -> Vec<OnceLock<Counter>> {
    let count = Transport::ALL.len() * CODES.len() * Cause::ALL.len();
    let responses: Vec<_> = (0..count).map(|_| OnceLock::new()).collect();
    for transport in Transport::ALL {
        for code in CODES.iter().copied() {
            for cause in Cause::ALL {
                let is_alarming = (400..500).contains(&code) && cause == Cause::Gateway;
                let is_usual =
                    matches!(code, 200 | 202) && transport != Transport::Other && cause != Cause::Agent;
                if is_alarming || is_usual {
                    let made = || response(recorder, transport, code, cause);
                    responses[response_index(transport, code, cause)].get_or_init(made);
                }
            }
        }
    }
    responses
}

fn response(recorder: &PrometheusRecorder, transport: Transport, code: u16, cause: Cause) -> Counter {
    let code = if CODES.contains(&code) && code != 0 { code.to_string() } else { "other".to_owned() };
    let labels = [("transport", transport.as_str()), ("code", code.as_str()), ("cause", cause.as_str())];
    counter(recorder, "mcpool_agent_responses_total", &labels)
}

fn response_index(transport: Transport, code: u16, cause: Cause) -> usize {
    let code = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1);
    (transport as usize * CODES.len() + code) * Cause::ALL.len() + cause as usize
}

/// HTTP statuses with their own counter, frequent ones first; 0 is any other.
const CODES: &[u16] = &[
    200, 202, 204, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 421, 429, 431, 500, 502, 503, 504,
    0,
];
/// The global limits.
const LIMITS: &[&str] =
    &["agent_sessions", "connections", "adopted_calls", "buffered", "descriptors", "admin_connections"];
/// Supervised tasks, `other` last.
const TASKS: &[&str] = &[
    "session",
    "opener",
    "compare",
    "call",
    "connection",
    "stream",
    "adopter",
    "sweep",
    "relief",
    "admin",
    "other",
];
/// Every [`Parking`] as its label.
const PARKINGS: &[&str] = &[
    Parking::Parked.as_str(),
    Parking::Resumed.as_str(),
    Parking::Expired.as_str(),
    Parking::Refused.as_str(),
];
/// Every [`Restore`] as its label.
const RESTORES: &[&str] = &[
    Restore::Restored.as_str(),
    Restore::Deleted.as_str(),
    Restore::Expired.as_str(),
    Restore::Forgotten.as_str(),
    Restore::Own.as_str(),
    Restore::Full.as_str(),
    Restore::Failed.as_str(),
];
/// [`DROPPED_KINDS`], and kinds that only the front drops.
const DROPPED: &[&str] = &[
    "progress",
    "log",
    "unknown_id",
    "late_answer",
    "server_request",
    "notification",
    "updated",
    "mangled_id",
    "malformed",
    "too_large",
    "abandoned",
    "agent_response",
];

const _: () = assert!(DROPPED.len() == DROPPED_KINDS.len() + 1, "a kind of dropped message is not listed");

#[cfg(test)]
mod tests;
