//! The shipped alerts: their syntax and their tests by promtool, and a real Prometheus that scrapes a real gateway,
//! whose metrics promtool finds nothing to say against.
//!
//! The subtle thing: a rule can be well-formed and still be refused when it meets real series (a many-to-many match),
//! so the rules are also evaluated over what the gateway really serves.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::harness::http;
use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::Job;

/// For a scrape and an evaluation of every group, once a second each.
const LIMIT: Duration = Duration::from_secs(60);

/// Nothing to choose.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {}

/// Checks rules and configuration, runs the tests of the rules, and lets a Prometheus evaluate them.
///
/// # Errors
/// When promtool or Prometheus cannot be started.
pub(crate) fn run(_: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    for (what, args) in [
        ("config", ["check", "config", "config/prometheus/prometheus.yml"]),
        ("rules", ["test", "rules", "config/prometheus/rules_test.yml"]),
    ] {
        let ended = Job::new("promtool").args(args).logged(&format!("alerts-{what}"))?;
        tally.add(Tally::check(ended.success, || format!("promtool {}: {}", args.join(" "), ended.output)));
    }
    tally.add(evaluated()?);
    Ok(tally)
}

/// A real Prometheus over a real gateway: the target is up, and no rule is in trouble.
fn evaluated() -> Result<Tally> {
    let gateway = Gateway::demo("gateway-alerts")?;
    let port = http::free_port()?;
    let folder = paths::logs().join("prometheus");
    fs::create_dir_all(&folder)?;
    // A leftover of the last run would answer for this one.
    let data = folder.join("data");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    let shipped = fs::read_to_string(paths::root().join("config/prometheus/prometheus.yml"))?;
    let config = shipped
        .replace("15s", "1s")
        .replace("gateway:8801", &format!("127.0.0.1:{}", gateway.admin()))
        .replace("rules.yml", &paths::root().join("config/prometheus/rules.yml").display().to_string());
    let file = folder.join("prometheus.yml");
    fs::write(&file, config)?;
    let page = folder.join("metrics.txt");
    fs::write(&page, http::get(gateway.admin(), "/metrics")?.1)?;
    let linted = Job::new("bash")
        .args(["-c", &format!("promtool check metrics < {}", page.display())])
        .logged("alerts-metrics")?;
    let is_clean = linted.success && linted.output.trim().is_empty();
    let mut tally = Tally::check(is_clean, || format!("promtool check metrics: {}", linted.output));
    let _prometheus = Job::new("prometheus")
        .args([
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ])
        .service("prometheus")?;
    let limit = Instant::now() + LIMIT;
    let groups = loop {
        match (scraped(port), rules(port)) {
            (Ok(true), Ok(groups)) if healthy(&groups).is_some() => break groups,
            _ if Instant::now() < limit => std::thread::sleep(Duration::from_millis(200)),
            (target, groups) => bail!("target up: {target:?}; rules: {groups:?}"),
        }
    };
    let (count, trouble) = healthy(&groups).context("rules that were evaluated")?;
    println!("   {count} rules evaluated over the gateway's own series");
    tally.add(Tally::check(trouble.is_empty(), || format!("rules in trouble: {}", trouble.join("; "))));
    let firing = http::get(port, "/api/v1/alerts")?.1;
    let firing =
        serde_json::from_str::<Value>(&firing)?["data"]["alerts"].as_array().map_or(usize::MAX, Vec::len);
    tally.add(Tally::check(firing == 0, || format!("{firing} alerts over a healthy gateway")));
    Ok(tally)
}

fn scraped(port: u16) -> Result<bool> {
    let answer = http::get(port, "/api/v1/query?query=mcpool_build_info%20*%20on(instance)%20up")?.1;
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(answer["data"]["result"][0]["value"][1] == "1")
}

fn rules(port: u16) -> Result<Value> {
    Ok(serde_json::from_str(&http::get(port, "/api/v1/rules")?.1)?)
}

/// How many rules there are and what is wrong with them, once each was evaluated.
fn healthy(groups: &Value) -> Option<(usize, Vec<String>)> {
    let groups = groups["data"]["groups"].as_array()?;
    let rules: Vec<&Value> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
    let waiting = rules.is_empty() || rules.iter().any(|rule| rule["health"] == "unknown");
    let trouble = rules.iter().filter(|rule| rule["health"] != "ok").map(|rule| rule.to_string()).collect();
    (!waiting).then_some((rules.len(), trouble))
}
