//! Races of scripted servers, run directly and through the pool.

use mcpool_demo::{IdDialect, Script, Server};

use super::*;
use crate::config::Config;

/// Rehearsals within which a race has to show.
const REHEARSALS: usize = 10;

fn rehearsal(url: &str, transport: &str) -> Rehearsal {
    let text = format!("[backends.a]\nurl = \"{url}\"\ntransport = \"{transport}\"");
    let config = Config::parse("file.toml", &text, std::path::Path::new(""), &|_| None).unwrap();
    Rehearsal {
        backend: config.backends[0].clone(),
        url: url.to_owned(),
        headers: Vec::new(),
        agents: 6,
        rounds: 2,
        patience: Duration::from_secs(5),
        call: Errand::tool("sleep", &json!({ "ms": 200 })),
        restart: None,
    }
}

async fn rehearsed(rehearsal: &Rehearsal) -> Value {
    let mut out = Vec::new();
    let safe = rehearse(rehearsal, true, &mut out).await.unwrap();
    let report: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(report["safe"], safe);
    report
}

fn failed(report: &Value, order: &str, way: &str) -> u64 {
    let orders = report["orders"].as_array().unwrap();
    let row = orders.iter().find(|row| row["order"] == order).unwrap_or_else(|| panic!("{order}: {report}"));
    assert!(row[way]["steps"].as_u64().unwrap() >= 12, "{report}");
    row[way]["failed"].as_u64().unwrap()
}

/// Rehearses until each of these orders has failed directly: whether a race is lost depends on the machine. Through the
/// pool `holds` has to be true each time.
async fn reproduced(rehearsal: &Rehearsal, orders: &[&str], holds: impl Fn(&Value)) {
    let mut left = orders.to_vec();
    for _ in 0..REHEARSALS {
        let report = rehearsed(rehearsal).await;
        holds(&report);
        left.retain(|order| failed(&report, order, "direct") == 0);
        if left.is_empty() {
            return;
        }
    }
    panic!("{left:?} did not fail directly in {REHEARSALS} rehearsals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn races_of_a_streamable_server_are_reproduced_and_none_is_left_through_the_pool() {
    let script = Script { ids: IdDialect::Text, strict_init: true, ..Script::default() };
    let server = Server::start(script).await.unwrap();
    let orders = ["early_request", "duplicate_ids", "delete_in_flight", "second_stream"];
    reproduced(&rehearsal(&server.url_http(), "http"), &orders, |report| {
        for row in report["orders"].as_array().unwrap() {
            assert_eq!(row["pooled"]["failed"], 0, "{report}");
        }
        assert_eq!(report["safe"], true);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn races_over_sse_are_reproduced_and_none_is_left_through_the_pool() {
    let script = Script { strict_init: true, ..Script::default() };
    let server = Server::start(script).await.unwrap();
    let orders = ["early_request", "silent_reconnect", "delete_in_flight"];
    reproduced(&rehearsal(&server.url_sse(), "sse"), &orders, |report| {
        for order in orders {
            assert_eq!(failed(report, order, "pooled"), 0, "{order}: {report}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_through_the_pool_is_a_failed_rehearsal_that_says_why() {
    let server = Server::start(Script::default()).await.unwrap();
    let mut rehearsal = rehearsal(&server.url_http(), "http");
    rehearsal.call = Errand { method: "no/such".to_owned(), params: json!({}) };
    let mut out = Vec::new();
    assert!(!rehearse(&rehearsal, false, &mut out).await.unwrap());
    let said = String::from_utf8(out).unwrap();
    assert!(said.contains("NOT safe") && said.contains("pooled, 12 times: error -32601"), "{said}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_case_for_the_doctor() {
    let rehearsal = rehearsal("http://127.0.0.1:9/mcp", "http");
    let why = rehearse(&rehearsal, false, &mut Vec::new()).await.unwrap_err();
    assert!(why.contains("cannot connect") && why.contains("mcpool doctor"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_costs_the_executors_their_sessions_and_the_pool_nothing() {
    let server = Server::start(Script::default()).await.unwrap();
    let file = std::env::temp_dir().join(format!("mcpool-rehearse-{}", std::process::id()));
    let mut rehearsal = rehearsal(&server.url_http(), "http");
    rehearsal.call = Errand::listing();
    // The command makes the server forget everything, and waits for it.
    let path = file.display();
    rehearsal.restart = Some(format!("touch {path}; while [ -e {path} ]; do sleep 0.05; done"));
    let restarting = async {
        loop {
            if file.exists() {
                server.forget_sessions(false);
                std::fs::remove_file(&file).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let report = tokio::select! {
        report = rehearsed(&rehearsal) => report,
        () = restarting => unreachable!(),
    };
    assert_eq!(failed(&report, "restart", "direct"), 12, "{report}");
    assert_eq!(failed(&report, "restart", "pooled"), 0, "{report}");
}
