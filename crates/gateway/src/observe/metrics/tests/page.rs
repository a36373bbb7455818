//! `config/METRICS.md` lists every family with its labels and a valid query. `MCPOOL_WRITE_PAGES=1` regenerates it.

use std::fmt::Write as _;

use super::{
    super::super::families::Kind,
    monitoring::{after, shipped, wrong},
    *,
};

const HEAD: &str = "<!-- written by: MCPOOL_WRITE_PAGES=1 cargo nextest run -p mcpool page -->\n
# Metrics

Every metric of `GET /metrics` on the admin listener, in the text format of Prometheus. Metrics of a backend carry the label
`backend` and disappear with it. Counters exist from the start at 0, so that the first increase is seen; the histograms of
calls appear with the first call.

A scrape job is in [prometheus/prometheus.yml](prometheus/prometheus.yml), the alerts in
[prometheus/rules.yml](prometheus/rules.yml), a dashboard in
[grafana/dashboards/mcpool.json](grafana/dashboards/mcpool.json). [OPERATIONS.md](OPERATIONS.md) says what to do about an
alert. A test checks that the queries below name metrics and labels that exist.
";

type Rows = &'static [(&'static str, &'static str)];

/// Per heading: families, each with a useful query.
const QUERIES: &[(&str, Rows)] = &[
    (
        "Backends",
        &[
            ("mcpool_backend_up", "mcpool_backend_up == 0"),
            ("mcpool_backend_ready", "min by (backend) (mcpool_backend_ready)"),
            ("mcpool_backend_paused", "mcpool_backend_paused == 1"),
            ("mcpool_backend_drained", "mcpool_backend_drained == 1"),
            ("mcpool_backend_info", "sum by (backend, mode, mode_reason) (mcpool_backend_info)"),
            (
                "mcpool_upstream_status_total",
                "sum by (backend, class) (rate(mcpool_upstream_status_total[5m]))",
            ),
        ],
    ),
    (
        "Calls",
        &[
            (
                "mcpool_requests_total",
                "sum by (backend) (rate(mcpool_requests_total{outcome=~\"rejected|timeout|lost\"}[5m]))",
            ),
            (
                "mcpool_request_duration_seconds",
                "histogram_quantile(0.99, sum by (backend, le) (rate(mcpool_request_duration_seconds_bucket[5m])))",
            ),
            (
                "mcpool_upstream_duration_seconds",
                "histogram_quantile(0.99, sum by (backend, le) (rate(mcpool_upstream_duration_seconds_bucket[5m])))",
            ),
            ("mcpool_retries_total", "sum by (backend, phase) (rate(mcpool_retries_total[5m]))"),
        ],
    ),
    (
        "Queue",
        &[
            ("mcpool_waiting_calls", "mcpool_waiting_calls / mcpool_queue_limit"),
            ("mcpool_queue_limit", "mcpool_queue_limit"),
            ("mcpool_waiting_bytes", "mcpool_waiting_bytes / mcpool_queue_bytes_limit"),
            ("mcpool_queue_bytes_limit", "mcpool_queue_bytes_limit"),
            ("mcpool_oldest_wait_seconds", "max by (backend) (mcpool_oldest_wait_seconds)"),
            ("mcpool_waiting_agents", "mcpool_waiting_agents > 0"),
            (
                "mcpool_queue_rejected_total",
                "sum by (backend, reason) (increase(mcpool_queue_rejected_total[5m]))",
            ),
            (
                "mcpool_lease_wait_seconds",
                "histogram_quantile(0.99, sum by (backend, le) (rate(mcpool_lease_wait_seconds_bucket[5m])))",
            ),
            ("mcpool_leases_in_use", "mcpool_leases_in_use / mcpool_leases_limit"),
            ("mcpool_leases_limit", "mcpool_leases_limit"),
        ],
    ),
    (
        "Sessions with backends",
        &[
            ("mcpool_sessions", "sum by (backend, mode, state) (mcpool_sessions)"),
            (
                "mcpool_sessions_limit",
                "sum by (backend) (mcpool_sessions) / on (backend) mcpool_sessions_limit",
            ),
            ("mcpool_sessions_opening", "mcpool_sessions_opening > 0"),
            (
                "mcpool_sessions_opened_total",
                "sum by (backend, reason) (increase(mcpool_sessions_opened_total[1h]))",
            ),
            (
                "mcpool_sessions_closed_total",
                "sum by (backend, reason) (increase(mcpool_sessions_closed_total[1h]))",
            ),
            (
                "mcpool_sessions_demoted_total",
                "sum by (backend, evidence) (increase(mcpool_sessions_demoted_total[1d])) > 0",
            ),
            (
                "mcpool_handshake_duration_seconds",
                "histogram_quantile(0.95, sum by (backend, step, le) (rate(mcpool_handshake_duration_seconds_bucket[15m])))",
            ),
            (
                "mcpool_probe_duration_seconds",
                "histogram_quantile(0.95, sum by (backend, le) (rate(mcpool_probe_duration_seconds_bucket[15m])))",
            ),
            ("mcpool_subscriptions", "mcpool_subscriptions"),
        ],
    ),
    (
        "Circuit breaker",
        &[
            ("mcpool_breaker_state", "max without (state) (mcpool_breaker_state{state=\"closed\"}) == 0"),
            (
                "mcpool_breaker_transitions_total",
                "sum by (backend) (increase(mcpool_breaker_transitions_total{to=\"open\"}[15m]))",
            ),
            (
                "mcpool_breaker_incidents_total",
                "sum by (backend, kind) (increase(mcpool_breaker_incidents_total[15m]))",
            ),
            ("mcpool_breaker_rejected_total", "rate(mcpool_breaker_rejected_total[5m])"),
            (
                "mcpool_breaker_probes_total",
                "sum by (backend, outcome) (increase(mcpool_breaker_probes_total[15m]))",
            ),
            (
                "mcpool_breaker_state_seconds_total",
                "increase(mcpool_breaker_state_seconds_total{state=\"open\"}[1d])",
            ),
            ("mcpool_breaker_slow_start_limit", "mcpool_breaker_slow_start_limit > 0"),
        ],
    ),
    (
        "Agents",
        &[
            ("mcpool_agent_sessions", "sum by (transport, era) (mcpool_agent_sessions)"),
            (
                "mcpool_agent_responses_total",
                "sum by (code) (rate(mcpool_agent_responses_total{cause=\"gateway\",code=~\"4..\"}[5m]))",
            ),
            ("mcpool_agent_refused_total", "sum by (kind) (increase(mcpool_agent_refused_total[5m]))"),
            ("mcpool_agent_evictions_total", "rate(mcpool_agent_evictions_total[5m])"),
            ("mcpool_agent_restores_total", "sum by (outcome) (increase(mcpool_agent_restores_total[1h]))"),
            ("mcpool_authorization_ignored_total", "increase(mcpool_authorization_ignored_total[1h]) > 0"),
            ("mcpool_slow_agents_closed_total", "increase(mcpool_slow_agents_closed_total[1h])"),
            ("mcpool_messages_dropped_total", "sum by (kind) (rate(mcpool_messages_dropped_total[5m]))"),
            ("mcpool_parked_calls", "mcpool_parked_calls"),
            ("mcpool_parkings_total", "sum by (outcome) (increase(mcpool_parkings_total[1h]))"),
        ],
    ),
    (
        "Limits and memory",
        &[
            ("mcpool_limit_used", "mcpool_limit_used / mcpool_limit > 0.9"),
            ("mcpool_limit", "mcpool_limit"),
            ("mcpool_buffered_bytes", "mcpool_buffered_bytes / mcpool_buffered_limit_bytes"),
            ("mcpool_buffered_limit_bytes", "mcpool_buffered_limit_bytes"),
            ("mcpool_overload_state", "mcpool_overload_state{state!=\"calm\"} == 1"),
            (
                "mcpool_overload_transitions_total",
                "sum by (to) (increase(mcpool_overload_transitions_total[1h]))",
            ),
            ("mcpool_shed_total", "sum by (action) (increase(mcpool_shed_total[5m]))"),
            ("mcpool_replay_bytes", "mcpool_replay_bytes"),
        ],
    ),
    (
        "The gateway and its process",
        &[
            ("mcpool_build_info", "count by (version, revision) (mcpool_build_info)"),
            ("mcpool_draining", "mcpool_draining == 1"),
            ("mcpool_config_last_reload_successful", "mcpool_config_last_reload_successful == 0"),
            (
                "mcpool_config_last_reload_success_timestamp_seconds",
                "time() - mcpool_config_last_reload_success_timestamp_seconds",
            ),
            ("mcpool_config_generation", "changes(mcpool_config_generation[1d])"),
            ("mcpool_panics_total", "sum by (task) (increase(mcpool_panics_total[1d])) > 0"),
            ("process_cpu_seconds_total", "rate(process_cpu_seconds_total[1m])"),
            ("process_resident_memory_bytes", "process_resident_memory_bytes"),
            ("process_virtual_memory_bytes", "process_virtual_memory_bytes"),
            ("process_open_fds", "process_open_fds / process_max_fds"),
            ("process_max_fds", "process_max_fds"),
            ("process_threads", "process_threads"),
            ("process_start_time_seconds", "time() - process_start_time_seconds"),
        ],
    ),
];

/// Labels whose values are listed in full; others are shown by name.
const WHOLE: &[&str] =
    &["action", "cause", "executed", "from", "kind", "limit", "outcome", "phase", "task", "to", "transport"];

fn labels(all: &Series, family_name: &str) -> String {
    let mut found = BTreeMap::<&str, BTreeSet<&str>>::new();
    for (name, labels) in all.keys() {
        if family(name) == family_name {
            for (label, value) in labels.iter().filter(|(label, _)| *label != "le") {
                found.entry(label).or_default().insert(value);
            }
        }
    }
    let is_info = family_name.ends_with("_info");
    let show = |(label, values): (&&str, &BTreeSet<&str>)| {
        let is_whole = WHOLE.contains(label)
            || (*label == "state" && family_name != "mcpool_sessions")
            || (*label == "reason" && family_name != "mcpool_sessions_closed_total");
        if is_info || !is_whole {
            return format!("`{label}`");
        }
        format!("`{label}`: {}", values.iter().copied().collect::<Vec<_>>().join(", "))
    };
    found.iter().map(show).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn the_page_of_metrics_is_the_code() {
    let rig = Rig::new();
    rig.use_once("demo");
    let all = series(&rig.text());
    let mut text = HEAD.to_owned();
    for (heading, rows) in QUERIES {
        write!(text, "\n## {heading}\n\n| metric | type | labels | meaning | query |\n| --- | --- | --- | --- | --- |\n")
            .unwrap();
        for (name, query) in *rows {
            let (_, kind, help) =
                FAMILIES.iter().find(|(known, ..)| known == name).unwrap_or_else(|| panic!("{name}"));
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert_eq!(wrong(query, &all, &[]), Vec::<String>::new(), "{query}");
            let (labels, query) = (labels(&all, name), query.replace('|', "\\|"));
            writeln!(text, "| `{name}` | {kind} | {labels} | {help} | `{query}` |").unwrap();
        }
    }
    let listed: BTreeSet<_> = QUERIES.iter().flat_map(|(_, rows)| *rows).map(|(name, _)| *name).collect();
    let known: BTreeSet<_> = FAMILIES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(listed, known, "QUERIES has a row for every family");
    crate::pages::check("METRICS.md", &text);
}

/// The Markdown anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

#[test]
fn every_runbook_url_leads_to_a_heading_that_exists() {
    let rules = shipped("prometheus/rules.yml");
    let (alerts, urls) = (after("alert:", &rules), after("runbook_url:", &rules));
    assert!(urls.len() >= 14 && alerts.len() == urls.len(), "{alerts:?} {urls:?}");
    for (alert, url) in alerts.iter().zip(urls) {
        let url = url.trim_matches('"');
        let (file, wanted) = url.split_once('#').unwrap_or_else(|| panic!("{url} names no heading"));
        let page =
            shipped(file.strip_prefix("config/").unwrap_or_else(|| panic!("{url} is no page of config")));
        let found = page.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == wanted);
        assert!(found && *wanted == anchor(alert), "{alert}: {url} leads nowhere");
    }
}
