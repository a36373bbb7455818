//! The shipped alerts and dashboard use existing series, and each alert says what to do.
//!
//! Prometheus is silent about a misspelt name: an alert never fires, a panel stays empty.

use std::fs;

use serde_json::Value;

use super::*;

/// A file of the folder `config`.
pub(super) fn shipped(path: &str) -> String {
    let file = format!("{}/../../config/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&file).unwrap_or_else(|why| panic!("{file}: {why}"))
}

/// Values of a key in the rules, with continuation lines.
pub(super) fn after(key: &str, rules: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut deeper_than = None;
    for line in rules.lines() {
        let indent = line.len() - line.trim_start().trim_start_matches("- ").len();
        if let Some(rest) = line.trim_start().trim_start_matches("- ").strip_prefix(key) {
            found.push(rest.trim_start_matches(" >-").trim().to_owned());
            deeper_than = Some(indent);
        } else if deeper_than.is_some_and(|least| indent > least) {
            let last = found.last_mut().unwrap();
            *last = format!("{last} {}", line.trim());
        } else {
            deeper_than = None;
        }
    }
    found
}

/// Collects every query of the dashboard.
fn queries(board: &Value, into: &mut Vec<String>) {
    match board {
        Value::Object(fields) => {
            into.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            into.extend(fields.get("query").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| queries(field, into));
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, into)),
        _ => {}
    }
}

/// The series of a query: name and label matchers.
fn selectors(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = query;
    while let Some(at) = ["mcpool_", "process_", "mcpool:"].iter().filter_map(|p| rest.find(p)).min() {
        let tail = &rest[at..];
        let end = tail.find(|c| !word(c)).unwrap_or(tail.len());
        let (name, tail) = tail.split_at(end);
        let inside = tail.strip_prefix('{').and_then(|t| t.split_once('}')).map_or("", |(inside, _)| inside);
        let matchers = inside.split("\",").filter(|m| !m.is_empty()).map(|matcher| {
            let (label, value) = matcher.split_once('"').expect("a value in quotes");
            (label.trim_end_matches(['=', '~', '!']).to_owned(), value.trim_end_matches('"').to_owned())
        });
        found.push((name.to_owned(), matchers.collect()));
        rest = tail;
    }
    found
}

/// The mistakes in a query.
pub(super) fn wrong(query: &str, all: &Series, recorded: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, matchers) in selectors(query) {
        if recorded.contains(&name) {
            continue;
        }
        // An empty histogram has no buckets, but a name.
        let stem = family(&name);
        let of_name: Vec<_> =
            all.keys().filter(|(known, _)| family(known) == stem).map(|(_, labels)| labels).collect();
        if of_name.is_empty() {
            complaints.push(format!("no series is named {name}"));
            continue;
        }
        for (label, wanted) in matchers {
            // Skips labels added by Prometheus and dashboard variables.
            if ["job", "instance"].contains(&label.as_str()) || wanted.starts_with('$') {
                continue;
            }
            let values: BTreeSet<_> = of_name.iter().filter_map(|labels| labels.get(&label)).collect();
            if values.is_empty() {
                complaints.push(format!("{name} has no label {label}"));
            }
            let plain = |value: &&str| !value.contains(['.', '*', '+', '[']);
            let unknown = |value: &&str| !values.iter().any(|known| known.as_str() == *value);
            let missing = wanted.split('|').filter(plain).filter(unknown);
            complaints.extend(missing.map(|value| format!("{name} never has {label}={value}")));
        }
    }
    complaints
}

#[tokio::test]
async fn alerts_and_board_ask_for_series_that_exist() {
    let rig = Rig::new();
    rig.use_once("demo");
    let all = series(&rig.text());
    let rules = shipped("prometheus/rules.yml");
    let recorded = after("record:", &rules);
    let mut asked = after("expr:", &rules);
    assert!(
        asked.len() >= 13 && asked.iter().all(|query| !selectors(query).is_empty() || query.contains("up{")),
        "{asked:#?}"
    );
    queries(&serde_json::from_str(&shipped("grafana/dashboards/mcpool.json")).unwrap(), &mut asked);
    assert!(asked.iter().flat_map(|query| selectors(query)).count() > 50);
    for query in &asked {
        assert_eq!(wrong(query, &all, &recorded), Vec::<String>::new(), "{query}");
    }
    for mistake in [
        "rate(mcpool_request_total[5m])",
        r#"mcpool_breaker_state{state="opened"}"#,
        r#"mcpool_requests_total{outcome=~"lost|expired"}"#,
        r#"mcpool_sessions{kind="x"}"#,
        "mcpool:failed:ratio_rate3d > 1",
    ] {
        assert_ne!(wrong(mistake, &all, &recorded), Vec::<String>::new(), "{mistake}");
    }
}

#[test]
fn every_alert_is_tested_and_has_a_place_in_the_operations_page() {
    let alerts = after("alert:", &shipped("prometheus/rules.yml"));
    let (tests, page) = (shipped("prometheus/rules_test.yml"), shipped("OPERATIONS.md"));
    assert!(alerts.len() >= 9, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
        assert!(page.contains(&format!("\n### {alert}\n")), "{alert} is not explained");
    }
}

#[test]
fn every_error_is_in_the_catalogue() {
    let page = shipped("ERRORS.md");
    let code = include_str!("../../../../../wire/src/error.rs");
    let after_arrow = |text: &'static str| text.lines().filter_map(|line| line.trim().split_once(" => "));
    let mut kinds = 0;
    for (_, value) in after_arrow(code).filter(|(kind, _)| kind.starts_with("Self::")) {
        let value = value.trim_end_matches(',');
        if let Ok(code) = value.parse::<i32>() {
            assert!(page.contains(&format!("| {code} | ")), "{code} is not explained");
            kinds += 1;
        } else if value.len() > 6 && value.starts_with('"') {
            assert!(page.contains(&format!("`{}`", value.trim_matches('"'))), "{value} is not explained");
        }
    }
    assert!(kinds >= 15, "{kinds}");
}
