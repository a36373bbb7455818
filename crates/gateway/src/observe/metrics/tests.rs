//! The metric names and labels of DESIGN.md are a contract; each must occur in the rendered text.

mod monitoring;
mod page;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mcpool_front::{CallEnd, Outcome};
use mcpool_upstream::{
    Cause as UpstreamCause, CloseReason, Event, Mode, Observe as _, OpenReason, Refusal, Source,
};
use mcpool_wire::{AgentKey, BackendId, CallTrace, Executed, Method, RequestId};

use super::{
    super::{
        Observer,
        families::{BUCKETS, FAMILIES},
    },
    *,
};
use crate::config::{Config, Overrides};
use mcpool_router::events::GatewayObserve as _;
use mcpool_router::stack::now;

/// Every name in the design that is implemented.
const CONTRACT: &[&str] = &[
    "mcpool_breaker_state{backend,state}",
    "mcpool_breaker_transitions_total{backend,from,reason,to}",
    "mcpool_breaker_incidents_total{backend,kind}",
    "mcpool_breaker_rejected_total{backend}",
    "mcpool_breaker_probes_total{backend,outcome}",
    "mcpool_breaker_state_seconds_total{backend,state}",
    "mcpool_breaker_slow_start_limit{backend}",
    "mcpool_sessions{backend,mode,state}",
    "mcpool_sessions_limit{backend}",
    "mcpool_sessions_opened_total{backend,reason}",
    "mcpool_sessions_closed_total{backend,reason}",
    "mcpool_handshake_duration_seconds{backend,step}",
    "mcpool_probe_duration_seconds{backend}",
    "mcpool_leases_in_use{backend}",
    "mcpool_leases_limit{backend}",
    "mcpool_lease_wait_seconds{backend}",
    "mcpool_waiting_calls{backend}",
    "mcpool_waiting_agents{backend}",
    "mcpool_oldest_wait_seconds{backend}",
    "mcpool_queue_limit{backend}",
    "mcpool_waiting_bytes{backend}",
    "mcpool_queue_bytes_limit{backend}",
    "mcpool_queue_rejected_total{backend,reason}",
    "mcpool_requests_total{backend,executed,method,outcome}",
    "mcpool_request_duration_seconds{backend,method}",
    "mcpool_upstream_duration_seconds{backend,method}",
    "mcpool_retries_total{backend,phase}",
    "mcpool_upstream_status_total{backend,class}",
    "mcpool_agent_sessions{era,transport}",
    "mcpool_agent_evictions_total{}",
    "mcpool_limit{limit}",
    "mcpool_limit_used{limit}",
    "mcpool_agent_restores_total{outcome}",
    "mcpool_parked_calls{}",
    "mcpool_parkings_total{outcome}",
    "mcpool_agent_responses_total{cause,code,transport}",
    "mcpool_messages_dropped_total{kind}",
    "mcpool_slow_agents_closed_total{}",
    "mcpool_buffered_bytes{}",
    "mcpool_buffered_limit_bytes{}",
    "mcpool_overload_state{state}",
    "mcpool_overload_transitions_total{to}",
    "mcpool_shed_total{action}",
    "mcpool_agent_refused_total{kind}",
    "mcpool_replay_bytes{}",
    "mcpool_build_info{revision,version}",
    "mcpool_backend_info{backend,era,mode,mode_reason,transport}",
    "mcpool_backend_up{backend}",
    "mcpool_backend_ready{backend}",
    "mcpool_backend_paused{backend}",
    "mcpool_backend_drained{backend}",
    "mcpool_draining{}",
    "mcpool_config_last_reload_successful{}",
    "mcpool_config_last_reload_success_timestamp_seconds{}",
    "mcpool_config_generation{}",
    "mcpool_panics_total{task}",
    "process_cpu_seconds_total{}",
    "process_resident_memory_bytes{}",
    "process_open_fds{}",
    "process_start_time_seconds{}",
];

type Series = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// One line of the text.
fn series(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
            let labels = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
            let labels = labels.map(|pair| {
                let (label, value) = pair.split_once("=\"").expect("a label");
                (label.to_owned(), value.trim_end_matches('"').to_owned())
            });
            ((name.to_owned(), labels.collect()), value.parse().expect("a number"))
        })
        .collect()
}

/// A gateway with an unreachable backend.
fn gateway(observer: &Arc<Observer>) -> Gateway {
    let mut config = Config::load(None, Overrides::default()).unwrap_or_default();
    config.backends.clear();
    config.serve_demo("http://127.0.0.1:9/mcp".parse().unwrap());
    Gateway::start(config.backends, None, observer).unwrap()
}

struct Rig {
    metrics: Arc<Metrics>,
    observer: Arc<Observer>,
    gateway: Gateway,
    gauges: Gauges,
}

impl Rig {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let observer = Arc::new(Observer::new(metrics.clone()));
        Self { gateway: gateway(&observer), metrics, observer, gauges: Gauges::default() }
    }

    /// Triggers one event of each kind whose series appear on first use.
    fn use_once(&self, backend: &str) {
        let trace = CallTrace::new(Instant::now());
        self.metrics.front(&FrontEvent::CallEnded(end(&Method::ToolsCall, Outcome::Ok, &trace, backend)));
        let source = Source { id: BackendId(0), name: backend.into() };
        let took = Duration::from_millis(3);
        for event in [
            Event::Probed { ok: true, took },
            Event::Answered { epoch: 1, started: Instant::now(), took, method: "tools/call" },
            Event::Demoted { evidence: mcpool_upstream::Evidence::ListsDiffer, why: "" },
        ] {
            self.observer.on(&source, event);
        }
        self.connected(&source);
        self.observer.stack(&source).leased(took);
    }

    /// Reports all steps of a handshake.
    fn connected(&self, source: &Source) {
        for step in ["connect", "initialize", "initialized", "listen", "ping", "list"] {
            self.observer.on(source, Event::Rung { step, ok: true, took: Duration::from_millis(3) });
        }
    }

    fn text(&self) -> String {
        self.metrics.render(&self.gateway, &self.gauges, Readiness::Ok)
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(l, v)| ((*l).to_owned(), (*v).to_owned())).collect();
        series(&self.text()).get(&(name.to_owned(), labels)).copied()
    }
}

/// The family of a series; a histogram has three suffixes.
fn family(name: &str) -> &str {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    histogram.filter(|family| FAMILIES.iter().any(|(known, ..)| known == family)).unwrap_or(name)
}

#[tokio::test]
async fn every_name_of_the_contract_is_rendered_with_its_labels() {
    let rig = Rig::new();
    rig.use_once("demo");
    let text = rig.text();
    let mut shapes = BTreeSet::new();
    for (name, labels) in series(&text).keys() {
        let labels: Vec<_> = labels.keys().filter(|label| *label != "le").cloned().collect();
        shapes.insert(format!("{}{{{}}}", family(name), labels.join(",")));
    }
    for shape in CONTRACT {
        assert!(shapes.contains(*shape), "{shape} is not rendered; there is {shapes:#?}");
    }
    let known: BTreeSet<_> = FAMILIES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let rendered: BTreeSet<_> = shapes.iter().map(|s| s.split('{').next().unwrap().to_owned()).collect();
    assert_eq!(rendered, known);
    for (name, ..) in FAMILIES {
        assert!(
            text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} ")),
            "{name}"
        );
    }
    assert!(!text.contains(" summary\n"), "a histogram became a summary");
    assert!(text.contains("le=\"0.0005\"") && text.contains("le=\"60\""));
}

#[tokio::test]
async fn eight_backends_that_are_ready_are_a_small_scrape() {
    let rig = Rig::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    rig.gateway.apply(named(names), None).await.unwrap();
    let count = |backend: Option<&str>| {
        let all = series(&rig.text());
        let of = |labels: &BTreeMap<String, String>| labels.get("backend").map(String::as_str) == backend;
        all.keys().filter(|(_, labels)| backend.is_none() || of(labels)).count()
    };
    for name in names {
        rig.text();
        rig.connected(&Source { id: BackendId(0), name: name.into() });
        assert!(count(Some(name)) < 150, "{name}: {}", count(Some(name)));
    }
    assert!(count(None) < 2_000, "{}", count(None));
}

#[tokio::test]
async fn every_value_of_an_enum_label_is_there_before_anything_happens() {
    let text = Rig::new().text();
    let all = series(&text);
    let values = |family: &str, label: &str| -> BTreeSet<String> {
        let of = |(name, _): &&(String, BTreeMap<String, String>)| super::tests::family(name) == family;
        all.keys().filter(of).filter_map(|(_, labels)| labels.get(label).cloned()).collect()
    };
    let expect = |words: &[&str]| -> BTreeSet<String> { words.iter().map(|w| (*w).to_owned()).collect() };
    let outcomes = ["ok", "tool_error", "rpc_error", "rejected", "timeout", "cancelled", "lost"];
    assert_eq!(values("mcpool_requests_total", "outcome"), expect(&outcomes));
    assert_eq!(values("mcpool_requests_total", "executed"), expect(&["no", "maybe", "yes"]));
    // Other methods and the histograms appear with their first call.
    assert_eq!(values("mcpool_requests_total", "method"), expect(&["tools/call"]));
    assert_eq!(values("mcpool_request_duration_seconds", "method"), expect(&[]));
    for family in ["mcpool_breaker_state", "mcpool_breaker_state_seconds_total"] {
        assert_eq!(values(family, "state"), expect(&["closed", "open", "half_open"]), "{family}");
    }
    let transitions = [
        "incidents",
        "probe_started",
        "probe_succeeded",
        "probe_failed",
        "probe_lost",
        "probe_abandoned",
        "reset",
    ];
    assert_eq!(values("mcpool_breaker_transitions_total", "reason"), expect(&transitions));
    let probes = ["success", "failure", "lost", "abandoned"];
    assert_eq!(values("mcpool_breaker_probes_total", "outcome"), expect(&probes));
    let kinds = ["connect", "tls", "broken", "timeout", "gateway", "protocol", "server_error", "other"];
    assert_eq!(values("mcpool_breaker_incidents_total", "kind"), expect(&kinds));
    for ((name, labels), value) in &all {
        let counts = name.starts_with("mcpool_breaker_") && name.ends_with("_total");
        if counts && *name != "mcpool_breaker_state_seconds_total" {
            assert_eq!(*value, 0.0, "{name} {labels:?}");
        }
    }
    assert_eq!(values("mcpool_agent_responses_total", "cause"), expect(&["gateway", "backend"]));
    assert!(values("mcpool_agent_responses_total", "code").contains("400"));
    assert_eq!(values("mcpool_retries_total", "phase"), expect(&["not_sent", "refused", "maybe_sent"]));
    let rejections = ["full", "bytes", "displaced", "timeout", "circuit_open", "retry_budget"];
    assert_eq!(values("mcpool_queue_rejected_total", "reason"), expect(&rejections));
    let reasons = ["broken", "lost", "unresponsive", "fault"];
    assert_eq!(values("mcpool_sessions_closed_total", "reason"), expect(&reasons));
    assert_eq!(values("mcpool_sessions", "state"), expect(&["ready"]));
    assert_eq!(values("mcpool_sessions", "mode"), expect(&["stateless", "shared", "exclusive", "pinned"]));
    let reasons: Vec<_> = OpenReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(values("mcpool_sessions_opened_total", "reason"), expect(&reasons));
    assert_eq!(values("mcpool_messages_dropped_total", "kind"), expect(DROPPED));
    let rungs = expect(&["calm", "holding", "refusing", "shedding"]);
    assert_eq!(values("mcpool_overload_state", "state"), rungs);
    assert_eq!(values("mcpool_overload_transitions_total", "to"), rungs);
    assert_eq!(values("mcpool_shed_total", "action"), expect(&SHED));
    assert_eq!(values("mcpool_agent_refused_total", "kind"), expect(&REFUSALS));
    for kind in DROPPED_KINDS {
        assert!(DROPPED.contains(&kind), "{kind}");
    }
}

#[test]
fn every_cause_that_counts_has_its_kind() {
    let refusal = || Refusal { status: 502, message: String::new(), code: None, retry_after: None };
    let causes = [
        UpstreamCause::Connect(String::new()),
        UpstreamCause::Tls(String::new()),
        UpstreamCause::Broken(String::new()),
        UpstreamCause::Timeout(""),
        UpstreamCause::Gateway(refusal()),
        UpstreamCause::Protocol(String::new()),
    ];
    for cause in causes {
        let kind = cause.incident().expect("it counts");
        assert!(super::super::backend_gauges::INCIDENTS.contains(&kind), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_a_state_accrues_by_fractions_and_belongs_to_one_state_at_a_time() {
    let rig = Rig::new();
    let times = || {
        ["closed", "open", "half_open"].map(|state| {
            let labels = [("backend", "demo"), ("state", state)];
            rig.value("mcpool_breaker_state_seconds_total", &labels).expect("there from the start")
        })
    };
    let before: f64 = times().iter().sum();
    tokio::time::advance(Duration::from_millis(250)).await;
    let after: f64 = times().iter().sum();
    assert!((after - before - 0.25).abs() < 1e-6, "{before} {after}");
}

#[tokio::test]
async fn a_slow_start_shows_and_is_gone_at_full_speed() {
    let rig = Rig::new();
    let limit = || rig.value("mcpool_breaker_slow_start_limit", &[("backend", "demo")]);
    assert_eq!(limit(), Some(0.0));
    // No await below, so the gateway's own handshakes cannot interfere.
    let breaker = rig.gateway.backends()[0].breaker.clone();
    let at = |seconds| now() + Duration::from_secs(seconds);
    (1000..1005).for_each(|epoch| breaker.incident(epoch, "broken", at(0)));
    assert_eq!(breaker.may_open(at(1)), mcpool_breaker::Opening::Probe);
    breaker.probe_succeeded(1009, at(1));
    assert_eq!(limit(), Some(1.0));
    assert!(breaker.may_begin(at(10)).is_ok());
    assert_eq!(limit(), Some(0.0));
}

#[tokio::test]
async fn labels_stay_bounded_whatever_agents_send() {
    let rig = Rig::new();
    let before = series(&rig.text()).len();
    let trace = CallTrace::new(Instant::now());
    for n in 0..50 {
        let method = Method::parse(&format!("evil/{n}\"}}\n"));
        for outcome in Outcome::ALL {
            rig.metrics.front(&FrontEvent::CallEnded(end(&method, outcome, &trace, "demo")));
        }
        let end = end(&method, Outcome::Ok, &trace, "no-such-backend");
        rig.metrics.front(&FrontEvent::CallEnded(end));
        let code = 600 + n;
        rig.metrics.front(&FrontEvent::Responded { transport: Transport::Http, code, cause: Cause::Backend });
        rig.metrics.front(&FrontEvent::Dropped { kind: "unheard of" });
    }
    // New series: outcomes of `other`, its histogram, and a new status.
    let histogram = BUCKETS.len() + 3;
    assert_eq!(series(&rig.text()).len(), before + Outcome::ALL.len() + histogram + 1);
    let labels = [("transport", "http"), ("code", "other"), ("cause", "backend")];
    assert_eq!(rig.value("mcpool_agent_responses_total", &labels), Some(50.0));
}

fn end<'a>(method: &'a Method, outcome: Outcome, trace: &'a CallTrace, backend: &'a str) -> CallEnd<'a> {
    CallEnd {
        agent: AgentKey(1),
        request_id: RequestId(1),
        method,
        backend,
        target: backend,
        outcome,
        executed: Executed::Maybe,
        trace,
        error: None,
        took: Duration::from_millis(3),
    }
}

#[tokio::test]
async fn what_happens_is_counted_where_it_belongs() {
    let rig = Rig::new();
    let trace = CallTrace::new(Instant::now());
    let ended = end(&Method::ToolsCall, Outcome::Lost, &trace, "demo");
    rig.metrics.front(&FrontEvent::CallEnded(ended));
    let backend = ("backend", "demo");
    let call = [backend, ("method", "tools/call")];
    let labels = [&call[..], &[("outcome", "lost"), ("executed", "maybe")]].concat();
    assert_eq!(rig.value("mcpool_requests_total", &labels), Some(1.0));
    let bucket =
        |le| rig.value("mcpool_request_duration_seconds_bucket", &[&call[..], &[("le", le)]].concat());
    assert_eq!((bucket("0.0025"), bucket("0.005"), bucket("+Inf")), (Some(0.0), Some(1.0), Some(1.0)));

    let source = Source { id: BackendId(0), name: "demo".into() };
    let why = "";
    for event in [
        Event::Closed { epoch: 99, mode: Mode::Shared, reason: CloseReason::Lost, incident: None, why },
        Event::Opened {
            epoch: 98,
            mode: Mode::Pinned,
            reason: OpenReason::Pinned,
            started: Instant::now(),
            transport: "sse",
        },
        Event::Dropped { kind: "late_answer" },
        Event::Status { class: "5xx" },
        Event::Probed { ok: false, took: Duration::from_secs(5) },
    ] {
        rig.observer.on(&source, event);
    }
    let stack = rig.observer.stack(&source);
    stack.leased(Duration::ZERO);
    stack.retried("refused");
    stack.rejected("timeout");
    for (name, label) in [
        ("mcpool_sessions_closed_total", ("reason", "lost")),
        ("mcpool_sessions_opened_total", ("reason", "pinned")),
        ("mcpool_upstream_status_total", ("class", "5xx")),
        ("mcpool_retries_total", ("phase", "refused")),
        ("mcpool_queue_rejected_total", ("reason", "timeout")),
    ] {
        assert_eq!(rig.value(name, &[backend, label]), Some(1.0), "{name}");
    }
    for name in ["mcpool_lease_wait_seconds_count", "mcpool_probe_duration_seconds_count"] {
        assert_eq!(rig.value(name, &[backend]), Some(1.0), "{name}");
    }
    assert_eq!(rig.value("mcpool_messages_dropped_total", &[("kind", "late_answer")]), Some(1.0));
    rig.gauges.sse_agents.store(3, Ordering::Relaxed);
    rig.gauges.modern_agents.store(2, Ordering::Relaxed);
    for (transport, era, count) in
        [("sse", "legacy", 3.0), ("http", "legacy", 0.0), ("http", "modern", 2.0), ("sse", "modern", 0.0)]
    {
        let agents = [("transport", transport), ("era", era)];
        assert_eq!(rig.value("mcpool_agent_sessions", &agents), Some(count), "{transport} {era}");
    }
}

#[tokio::test]
async fn a_backend_that_is_down_shows_in_the_three_states_and_in_up() {
    let rig = Rig::new();
    let backend = ("backend", "demo");
    let opened = async {
        loop {
            let open = rig.value(
                "mcpool_breaker_transitions_total",
                &[backend, ("from", "closed"), ("to", "open"), ("reason", "incidents")],
            );
            if open == Some(1.0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), opened)
        .await
        .expect("five refused handshakes open the circuit");
    assert_eq!(rig.value("mcpool_backend_up", &[backend]), Some(0.0));
    assert_eq!(rig.value("mcpool_backend_ready", &[backend]), Some(0.0));
    let text = series(&rig.text());
    let state = |state: &str| {
        let labels = [backend, ("state", state)].map(|(l, v)| (l.to_owned(), v.to_owned()));
        text[&("mcpool_breaker_state".to_owned(), labels.into())]
    };
    assert_eq!(state("closed") + state("open") + state("half_open"), 1.0);
    assert_eq!(state("closed"), 0.0);
    let refused = rig.value("mcpool_breaker_incidents_total", &[backend, ("kind", "connect")]);
    assert!(refused >= Some(5.0), "{refused:?}");
}

/// Unreachable backends with these names.
fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<mcpool_router::settings::BackendSettings> {
    let one = |name: &str| format!("[backends.{name}]\nurl = \"http://127.0.0.1:9/mcp\"\nmin_idle = 0\n");
    let text: String = names.into_iter().map(one).collect();
    Config::parse("file.toml", &text, std::path::Path::new(""), &|_| None).unwrap().backends
}

#[tokio::test(start_paused = true)]
async fn a_thousand_configurations_leave_no_series_behind() {
    let rig = Rig::new();
    rig.gateway.apply(named(["stays"]), None).await.unwrap();
    let left = async {
        while !rig.gateway.leaving().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), left).await.expect("the first one leaves");
    let before: BTreeSet<_> = series(&rig.text()).into_keys().collect();
    for n in 0..1_000 {
        let guest = format!("guest-{n}");
        let changes = rig.gateway.apply(named(["stays", &guest]), None).await.unwrap();
        assert_eq!((changes.kept, changes.added.len(), changes.removed.len()), (1, 1, usize::from(n > 0)));
        // Counts an agent's call.
        let trace = CallTrace::new(Instant::now());
        rig.metrics.front(&FrontEvent::CallEnded(end(&Method::Ping, Outcome::Lost, &trace, &guest)));
        assert!(rig.gateway.leaving().len() <= 64 + 2, "{}", rig.gateway.leaving().len());
    }
    rig.gateway.apply(named(["stays"]), None).await.unwrap();
    let left = async {
        while !rig.gateway.leaving().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), left).await.expect("the last one leaves");
    let after: BTreeSet<_> = series(&rig.text()).into_keys().collect();
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&(String, _)>::new());
    assert_eq!(after.len(), before.len());
}

#[tokio::test(start_paused = true)]
async fn what_a_circuit_counted_is_not_forgotten_with_its_registration() {
    let rig = Rig::new();
    let backend = ("backend", "a");
    let refused = |rig: &Rig| rig.value("mcpool_breaker_incidents_total", &[backend, ("kind", "connect")]);
    let with = |queue: usize| {
        let mut all = named(["a"]);
        all[0].spec.limits.queue = queue;
        all[0].spec.limits.min_idle = 1;
        all
    };
    rig.gateway.apply(with(10), None).await.unwrap();
    let mut last = 0.0;
    for round in 0..3 {
        let counted = async {
            while refused(&rig) < Some(last + 2.0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), counted).await.expect("nobody listens there");
        last = refused(&rig).unwrap();
        let changes = rig.gateway.apply(with(11 + round), None).await.unwrap();
        assert_eq!(changes.changed.len(), 1);
        assert!(refused(&rig) >= Some(last), "a counter never falls");
    }
    assert_eq!(rig.gateway.backends()[0].backend.spec().generation, 4);
}
