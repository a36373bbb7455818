//! What agents that share a session share, and what each has for itself: subscriptions, log levels, lists and their
//! cursors, and what no session offers. Under a paused clock, over a backend in memory.

mod asking;
mod lists;
mod subscribing;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use mcpool_upstream::transport::memory::{Memory, Turn};
use mcpool_wire::{Answer, CallError, ErrorKind, Link as _, LinkEvent, Method};
use serde_json::{Value, json};

use crate::lab::{Agent, Lab, Wish, broken};

const A: &str = "demo://a";

/// A backend with everything; page 1 of its prompts leads to page 2.
async fn act(turn: Turn) -> Vec<Bytes> {
    let message: Value = serde_json::from_slice(&turn.message).unwrap_or_default();
    let (id, params) = (&message["id"], &message["params"]);
    let note = |method: &str, params: Value| {
        Bytes::from(json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string())
    };
    let result =
        |result: Value| Bytes::from(json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string());
    let name = params["name"].as_str().unwrap_or_default();
    match turn.method() {
        Some(Method::Initialize) => vec![result(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": false},
                "prompts": {}, "logging": {}, "tasks": {}},
            "serverInfo": {"name": "lab", "version": "1"},
        }))],
        Some(Method::ResourcesSubscribe) if params["uri"] == "demo://none" => {
            let error = json!({"code": -32002, "message": "no such resource"});
            vec![Bytes::from(json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string())]
        }
        Some(Method::ResourcesSubscribe | Method::PromptsList) if params["cursor"].is_null() => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            vec![result(json!({"prompts": [], "nextCursor": "page 2", "n": 1.50}))]
        }
        Some(Method::PromptsList) => vec![result(json!({"prompts": [], "got": params["cursor"]}))],
        Some(Method::ToolsList) => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            vec![result(json!({"tools": [
                {"name": "write"}, {"name": "job", "execution": {"taskSupport": "required"}},
            ]}))]
        }
        Some(Method::ToolsCall) if name == "log" => {
            let line = |level| note("notifications/message", json!({"level": level, "data": level}));
            vec![line("debug"), line("error"), result(json!({"content": []}))]
        }
        Some(Method::ToolsCall) if name == "ask" => {
            let ask =
                |method| Bytes::from(json!({"jsonrpc": "2.0", "id": method, "method": method}).to_string());
            vec![
                ask("ping"),
                ask("sampling/createMessage"),
                ask("vendor/odd"),
                result(json!({"content": []})),
            ]
        }
        Some(Method::ToolsCall) if name == "hang" => std::future::pending().await,
        _ => turn.reply().into_iter().collect(),
    }
}

fn lab() -> Lab {
    Lab::start(Memory::new(act), Wish::default())
}

fn lab_in_exchange(change: impl FnOnce(&mut Wish)) -> Lab {
    let mut wish = Wish::default();
    change(&mut wish);
    Lab::start(Memory::new(act).answering_in_exchange(), wish)
}

async fn ask(agent: &Agent, method: &str, params: Value) -> Result<Answer, CallError> {
    agent.link.call(agent.request(method, &params)).await
}

fn value(answer: &Answer) -> Value {
    serde_json::from_slice(answer.message.bytes()).expect("JSON")
}

async fn subscribe(agent: &Agent, uri: &str) {
    let answer = ask(agent, "resources/subscribe", json!({"uri": uri})).await.expect("subscribed");
    assert_eq!(value(&answer)["result"], json!({}));
}

/// How often the backend was sent this, over all its sessions.
fn sent(lab: &Lab, method: &str) -> usize {
    let methods = lab.memory.sessions().into_iter().flat_map(|session| session.methods());
    methods.filter(|m| m == method).count()
}

fn levels(lab: &Lab) -> Vec<Vec<String>> {
    let level = |message: &Bytes| {
        let message: Value = serde_json::from_slice(message).ok()?;
        (message["method"] == "logging/setLevel")
            .then(|| message["params"]["level"].as_str().map(str::to_owned))?
    };
    lab.memory.sessions().iter().map(|s| s.sent().iter().filter_map(level).collect()).collect()
}

/// The notifications an agent got of this method, by their params.
fn notes(agent: &Agent, method: &str) -> Vec<Value> {
    let notes = agent.inbox.taken().into_iter().filter_map(|event| match event {
        LinkEvent::Notification(bytes) => serde_json::from_slice::<Value>(&bytes).ok(),
        _ => None,
    });
    notes.filter(|note| note["method"] == method).map(|note| note["params"].clone()).collect()
}

fn updated(lab: &Lab, uri: &str) {
    let note = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}});
    lab.memory.last().say(note.to_string());
}

const UPDATED: &str = "notifications/resources/updated";
