//! Output of `mcpool agents` and `mcpool calls`.

use serde_json::Value;

use super::table::{columns, seconds, text};

const AGENTS: [&str; 11] = [
    "AGENT",
    "CLIENT",
    "PEER",
    "BACKEND",
    "TRANSPORT",
    "MODE",
    "SINCE",
    "IDLE",
    "CALLS",
    "WAITED",
    "BYTES IN/OUT/WAITING",
];
const CALLS: [&str; 9] =
    ["RUNNING", "STATE", "WAITED", "BACKEND", "SESSION", "METHOD", "NAME", "AGENT", "REQUEST ID"];

/// One agent per line, in the given order.
pub(super) fn agents(body: &Value) -> String {
    let lines = body["agents"].as_array().into_iter().flatten().map(|agent| {
        let count = |key: &str| text(&agent[key]);
        let state =
            if agent["listens"] == true { "listens".to_owned() } else { seconds(&agent["idle_seconds"]) };
        vec![
            count("agent"),
            client(&agent["client"]),
            count("peer"),
            count("backend"),
            format!("{} {}", count("transport"), count("era")),
            count("mode"),
            seconds(&agent["age_seconds"]),
            state,
            calls_of(agent),
            seconds(&agent["waited_seconds"]),
            format!("{}/{}/{}", count("bytes_received"), count("bytes_sent"), count("bytes_waiting")),
        ]
    });
    let table = with_head(&AGENTS, lines);
    let next = body["next"].as_u64().map(|next| format!("more with --after {next}\n")).unwrap_or_default();
    format!("{table}{} agents in all\n{next}", text(&body["total"]))
}

/// One call per line, the longest first.
pub(super) fn calls(body: &Value) -> String {
    let lines = body["calls"].as_array().into_iter().flatten().map(|call| {
        vec![
            seconds(&call["running_seconds"]),
            text(&call["state"]),
            seconds(&call["waited_seconds"]),
            text(&call["backend"]),
            text(&call["session"]),
            text(&call["method"]),
            text(&call["name"]),
            format!("{} {}", text(&call["agent"]), client(&call["client"])),
            text(&call["request_id"]),
        ]
    });
    format!("{}{} calls in all\n", with_head(&CALLS, lines), text(&body["total"]))
}

fn with_head(head: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|word| (*word).to_owned()).collect();
    columns(std::iter::once(head).chain(lines).collect())
}

/// An agent's calls: total, failed, running and queued.
fn calls_of(agent: &Value) -> String {
    let count = |key: &str| text(&agent[key]);
    let (all, failed) = (count("calls"), count("calls_failed"));
    format!("{all} ({failed} failed, {} run, {} wait)", count("calls_in_flight"), count("calls_waiting"))
}

fn client(client: &Value) -> String {
    match (text(&client["name"]), text(&client["version"])) {
        (name, version) if version == "-" || version.is_empty() => name,
        (name, version) => format!("{name} {version}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agents_and_calls_are_lines_that_nobody_can_break() {
        let body = json!({ "total": 1, "next": 7, "agents": [{
            "agent": "a7", "client": { "name": "evil\u{1b}[2J", "version": "1" }, "peer": "192.0.2.7", "backend": "b",
            "transport": "http", "era": "legacy", "mode": "shared", "age_seconds": 61.0, "idle_seconds": 2.0,
            "listens": false, "calls": 9, "calls_failed": 1, "calls_in_flight": 2, "calls_waiting": 1,
            "waited_seconds": 0.5, "bytes_received": 10, "bytes_sent": 20, "bytes_waiting": 0,
        }]});
        let shown = agents(&body);
        assert!(shown.contains("evil\\u001b[2J 1") && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains("9 (1 failed, 2 run, 1 wait)") && shown.contains("--after 7"), "{shown}");
        let body = json!({ "total": 1, "calls": [{
            "request_id": "00ff", "agent": "a7", "client": null, "backend": "b", "session": 3, "method": "tools/call",
            "name": "search", "state": "running", "running_seconds": 4.25, "waited_seconds": 0.0,
        }]});
        let shown = calls(&body);
        assert!(shown.contains("4.2s") && shown.contains("search") && shown.contains("00ff"), "{shown}");
    }
}
