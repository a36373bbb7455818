//! Output of `mcpool status`: the backend with the longest wait first.

use serde_json::Value;

use crate::terminal;

const HEAD: [&str; 10] =
    ["BACKEND", "STATE", "MODE", "CIRCUIT", "SESSIONS", "IN USE", "WAITING", "OLDEST", "AGENTS", "REASON"];
const LIMIT_HEAD: [&str; 3] = ["LIMIT", "USED", "PERCENT"];
const SESSION_HEAD: [&str; 6] = ["SESSION", "MODE", "STATE", "IN FLIGHT", "PENDING", "AGE"];

/// All backends, one per line.
pub(super) fn backends(body: &Value) -> String {
    let mut all: Vec<&Value> = body["backends"].as_array().into_iter().flatten().collect();
    all.sort_by(|a, b| worse(b).total_cmp(&worse(a)).then_with(|| text(&a["name"]).cmp(&text(&b["name"]))));
    let backends = match all.is_empty() {
        true => "no backend is configured".to_owned(),
        false => columns(
            std::iter::once(HEAD.map(str::to_owned).to_vec()).chain(all.into_iter().map(line)).collect(),
        ),
    };
    match limits(&body["limits"]) {
        Some(limits) => format!("{backends}\n{limits}"),
        None => backends,
    }
}

/// The global limits and their use.
fn limits(limits: &Value) -> Option<String> {
    let all = limits.as_array().filter(|all| !all.is_empty())?;
    let lines = all.iter().map(|one| {
        let (used, most) =
            (one["used"].as_f64().unwrap_or_default(), one["most"].as_f64().unwrap_or_default());
        let percent = if most > 0.0 { used / most * 100.0 } else { 0.0 };
        vec![
            text(&one["limit"]),
            format!("{}/{}", text(&one["used"]), text(&one["most"])),
            format!("{percent:.0}%"),
        ]
    });
    Some(columns(std::iter::once(LIMIT_HEAD.map(str::to_owned).to_vec()).chain(lines).collect()))
}

/// One backend with its sessions.
pub(super) fn backend(body: &Value) -> String {
    let sessions = body["session_list"].as_array().into_iter().flatten().map(|session| {
        vec![
            text(&session["session"]),
            text(&session["mode"]),
            text(&session["state"]),
            text(&session["calls_in_flight"]),
            text(&session["pending"]),
            seconds(&session["age_seconds"]),
        ]
    });
    let head = columns(vec![HEAD.map(str::to_owned).to_vec(), line(body)]);
    let list: Vec<_> = std::iter::once(SESSION_HEAD.map(str::to_owned).to_vec()).chain(sessions).collect();
    format!("{head}\n{}", columns(list))
}

/// Sort key: the longest wait; without waiting calls, an unavailable backend comes first.
fn worse(backend: &Value) -> f64 {
    let wait = backend["calls"]["oldest_wait_seconds"].as_f64();
    wait.unwrap_or(if matches!(text(&backend["state"]).as_str(), "ready" | "idle") { -1.0 } else { -0.5 })
}

/// Queued calls, and agents waiting for a session of their own.
fn waiting(backend: &Value) -> String {
    let calls = backend["calls"]["waiting"].as_u64();
    let agents = backend["sessions"]["waiting_agents"].as_u64().unwrap_or_default();
    calls.map_or_else(|| "-".to_owned(), |calls| (calls + agents).to_string())
}

fn line(backend: &Value) -> Vec<String> {
    let (sessions, calls) = (&backend["sessions"], &backend["calls"]);
    vec![
        text(&backend["name"]),
        text(&backend["state"]),
        text(&backend["mode"]),
        text(&backend["circuit"]["state"]),
        format!("{}/{}", text(&sessions["ready"]), text(&sessions["limit"])),
        format!("{}/{}", text(&calls["in_flight"]), text(&calls["limit"])),
        format!("{}/{}", waiting(backend), text(&calls["waiting_limit"])),
        seconds(&calls["oldest_wait_seconds"]),
        text(&backend["agents"]),
        text(&backend["reason"]),
    ]
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // A cell is one line.
        Value::String(text) => terminal::escaped(&text.replace(['\n', '\t'], " ")).into_owned(),
        other => other.to_string(),
    }
}

pub(super) fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}s"))
}

/// Aligns columns to their widest cell; the last one is not padded.
pub(super) fn columns(lines: Vec<Vec<String>>) -> String {
    let count = lines.first().map_or(0, Vec::len);
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: &str, state: &str, wait: Option<f64>) -> Value {
        json!({
            "name": name, "state": state, "mode": "shared", "circuit": { "state": "closed" }, "agents": 7,
            "sessions": { "ready": 2, "limit": 64 },
            "calls": { "in_flight": 3, "limit": 64, "waiting": 1, "waiting_limit": 1024, "oldest_wait_seconds": wait },
            "reason": "why\nnot",
        })
    }

    #[test]
    fn who_waits_longest_stands_first() {
        let body = json!({ "backends": [
            of("fine", "ready", None), of("slow", "ready", Some(2.04)), of("off", "down", None), of("held", "paused", Some(9.0)),
        ]});
        let text = backends(&body);
        let names: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["BACKEND", "held", "slow", "off", "fine"]);
        assert!(
            text.contains(
                "slow     ready   shared  closed   2/64      3/64    1/1024   2.0s    7       why not"
            ),
            "{text}"
        );
        assert_eq!(backends(&json!({ "backends": [] })), "no backend is configured");
        let near =
            json!({ "backends": [], "limits": [{ "limit": "agent_sessions", "used": 19, "most": 20 }] });
        assert!(backends(&near).contains("\nagent_sessions  19/20  95%"), "{}", backends(&near));
    }

    #[test]
    fn one_backend_has_its_sessions_below() {
        let mut body = of("a", "ready", None);
        body["session_list"] = json!([{
            "session": 5, "mode": "shared", "state": "ready", "calls_in_flight": 3, "pending": 4, "age_seconds": 61.25,
        }]);
        let text = backend(&body);
        assert!(text.contains("\n\nSESSION  MODE    STATE  IN FLIGHT  PENDING  AGE\n5        shared  ready  3          4        61.2s"), "{text}");
    }
}
