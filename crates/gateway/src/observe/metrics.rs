//! All series of the gateway, rendered in Prometheus' text format on our own listener.
//!
//! The subtle thing: histograms keep every sample until they are drained, so somebody has to call
//! [`Metrics::upkeep`] now and then even if nobody scrapes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use arc_swap::ArcSwap;
use mcpool_front::{Cause, FrontEvent, Gauges, REFUSALS, Readiness, Rung, SHED, Transport};
use mcpool_upstream::DROPPED_KINDS;
use metrics::{Counter, Gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::{
    backend::{BackendMetrics, number},
    families::{BUCKETS, PerValue, counter, describe, gauge},
    fractions,
    process::{Process, seconds_now},
};
use crate::{build::Gateway, stack::now};

/// Every series there is.
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    backends: ArcSwap<HashMap<Arc<str>, Arc<BackendMetrics>>>,
    responses: Vec<Counter>,
    refused: PerValue<Counter>,
    authorization_ignored: Counter,
    dropped: PerValue<Counter>,
    slow_agents_closed: Counter,
    agent_sessions: [Gauge; 2],
    buffered_bytes: Gauge,
    buffered_limit: Gauge,
    rungs: [Gauge; 4],
    climbs: [Counter; 4],
    shed: PerValue<Counter>,
    replay_bytes: Gauge,
    draining: Gauge,
    process: Process,
}

impl Metrics {
    /// No backend yet.
    ///
    /// # Errors
    /// A sentence when the buckets are refused, which they are not.
    pub fn new() -> Result<Self, String> {
        let builder = PrometheusBuilder::new().set_buckets(BUCKETS).map_err(|why| why.to_string())?;
        let recorder = Arc::new(builder.build_recorder());
        describe(&recorder);
        constants(&recorder);
        let sessions = |transport: Transport| {
            let labels = [("transport", transport.as_str()), ("era", "legacy")];
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
            dropped: PerValue::new(DROPPED, |kind| {
                counter(&recorder, "mcpool_messages_dropped_total", &[("kind", kind)])
            }),
            slow_agents_closed: counter(&recorder, "mcpool_slow_agents_closed_total", &[]),
            agent_sessions: [sessions(Transport::Sse), sessions(Transport::Http)],
            buffered_bytes: gauge(&recorder, "mcpool_buffered_bytes", &[]),
            buffered_limit: gauge(&recorder, "mcpool_buffered_limit_bytes", &[]),
            rungs: Rung::ALL
                .map(|rung| gauge(&recorder, "mcpool_overload_state", &[("state", rung.as_str())])),
            climbs: Rung::ALL.map(|rung| {
                counter(&recorder, "mcpool_overload_transitions_total", &[("to", rung.as_str())])
            }),
            shed: PerValue::new(&SHED, |action| {
                counter(&recorder, "mcpool_shed_total", &[("action", action)])
            }),
            replay_bytes: gauge(&recorder, "mcpool_replay_bytes", &[]),
            draining: gauge(&recorder, "mcpool_draining", &[]),
            process: Process::new(&recorder),
            recorder,
        })
    }

    /// The series of this backend, made if there are none yet. Names come from the configuration: they are bounded.
    pub(super) fn register(&self, name: &Arc<str>) -> Arc<BackendMetrics> {
        if let Some(known) = self.backend(name) {
            return known;
        }
        let made = Arc::new(BackendMetrics::new(&self.recorder, name));
        self.backends.rcu(|known| {
            let mut all = HashMap::clone(known);
            all.entry(name.clone()).or_insert_with(|| made.clone());
            all
        });
        // Another thread may have been first; its handles lead to the same series.
        self.backend(name).unwrap_or(made)
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
                self.responses[response_index(*transport, *code, *cause)].increment(1);
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
            FrontEvent::AgentOpened { .. } | FrontEvent::AgentClosed { .. } => {}
        }
    }

    /// Everything as text, snapshots taken now.
    #[must_use]
    pub fn render(&self, gateway: &Gateway, gauges: &Gauges, readiness: Readiness) -> String {
        let backends = gateway.backends();
        for registered in &backends {
            self.register(&registered.name).scrape(registered);
        }
        let agents = [&gauges.sse_agents, &gauges.http_agents];
        for (gauge, agents) in self.agent_sessions.iter().zip(agents) {
            gauge.set(number(agents.load(Ordering::Relaxed)));
        }
        self.buffered_bytes.set(number(gauges.buffered_bytes.load(Ordering::Relaxed)));
        self.buffered_limit.set(number(gauges.buffered_limit.load(Ordering::Relaxed)));
        for (gauge, rung) in self.rungs.iter().zip(Rung::ALL) {
            gauge.set(f64::from(rung == gauges.rung()));
        }
        self.replay_bytes.set(number(gauges.replay_bytes.load(Ordering::Relaxed)));
        self.draining.set(f64::from(readiness == Readiness::Draining));
        self.process.scrape();
        let mut text = self.handle.render();
        fractions::write(&mut text, &backends, now());
        text
    }

    /// Drains the samples of histograms into their buckets.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// What does not change while the process lives.
fn constants(recorder: &PrometheusRecorder) {
    let revision = option_env!("MCPOOL_REVISION").unwrap_or("unknown");
    let build = [("version", env!("CARGO_PKG_VERSION")), ("revision", revision)];
    gauge(recorder, "mcpool_build_info", &build).set(1.0);
    gauge(recorder, "mcpool_config_last_reload_successful", &[]).set(1.0);
    gauge(recorder, "mcpool_config_last_reload_success_timestamp_seconds", &[]).set(seconds_now());
    for transport in [Transport::Sse, Transport::Http] {
        // No agent of the modern era is served yet, and the series says so.
        let labels = [("transport", transport.as_str()), ("era", "modern")];
        gauge(recorder, "mcpool_agent_sessions", &labels).set(0.0);
    }
}

fn responses(recorder: &PrometheusRecorder) -> Vec<Counter> {
    let mut responses = Vec::with_capacity(Transport::ALL.len() * CODES.len() * Cause::ALL.len());
    for transport in Transport::ALL {
        for code in CODES {
            for cause in Cause::ALL {
                let code = if *code == 0 { "other".to_owned() } else { code.to_string() };
                let labels =
                    [("transport", transport.as_str()), ("code", code.as_str()), ("cause", cause.as_str())];
                responses.push(counter(recorder, "mcpool_agent_responses_total", &labels));
            }
        }
    }
    responses
}

fn response_index(transport: Transport, code: u16, cause: Cause) -> usize {
    let code = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1);
    (transport as usize * CODES.len() + code) * Cause::ALL.len() + cause as usize
}

/// Statuses counted apart, the frequent ones first; 0 stands for all others.
const CODES: &[u16] = &[
    200, 202, 204, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 421, 429, 431, 500, 502, 503, 504,
    0,
];
/// Those of [`DROPPED_KINDS`], and what only the front drops.
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
