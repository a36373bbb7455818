//! What lies behind the front: a backend in memory whose tools do what their name says, and what is counted.

use std::{
    cell::Cell,
    collections::HashSet,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mcpool_front::{FrontEvent, FrontObserve, Health, Readiness};
use mcpool_wire::{
    Answer, Backends, Call, CallError, Caller, ClientHello, Envelope, ErrorKind, Executed, Forwarded, Hello,
    Identity, Link, LinkEvent, Message, Method, Reply, RequestId, Revision, ServerEntry, Target,
};
use serde_json::json;

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// A task's panic is its own; here it must not go unseen.
pub(super) fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |what| {
            PANICKED.set(true);
            before(what);
        }));
    });
    PANICKED.set(false);
}

pub(super) fn has_panicked() -> bool {
    PANICKED.get()
}

/// Counts.
#[derive(Default)]
pub(super) struct Script {
    pub(super) links: AtomicUsize,
    pub(super) running: AtomicUsize,
    ended: Mutex<HashSet<RequestId>>,
}

impl FrontObserve for Script {
    fn on(&self, event: &FrontEvent<'_>) {
        if let FrontEvent::CallEnded(end) = event {
            let fresh = self.ended.lock().expect("not poisoned").insert(end.request_id);
            assert!(fresh, "a call ended twice");
        }
    }
}

pub(super) struct Healthy;

impl Health for Healthy {
    fn readiness(&self) -> Readiness {
        Readiness::Ok
    }

    fn version(&self) -> &str {
        "0"
    }

    fn details(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }
}

/// Backends `a` (the default) and `b`.
pub(super) struct Scripted(pub(super) Arc<Script>);

pub(super) struct ScriptedLink {
    script: Arc<Script>,
    name: Arc<str>,
}

impl Backends for Scripted {
    type Link = ScriptedLink;

    fn target(&self, name: Option<&str>, _: &Identity) -> Result<Target, String> {
        match name.unwrap_or("a") {
            known @ ("a" | "b") => Ok(Target::named(known)),
            other => Err(format!("no backend {other:?}; known are a, b")),
        }
    }

    fn open(&self, hello: Hello) -> Reply<Arc<ScriptedLink>> {
        let script = Arc::clone(&self.0);
        Box::pin(async move {
            script.links.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(ScriptedLink { script, name: hello.target.name }))
        })
    }

    fn prefers_handshake(&self, _: &Target, _: &Caller, _: &ClientHello) -> bool {
        false
    }

    fn servers(&self, _: &Identity) -> Vec<ServerEntry> {
        let entry = |name: &str| ServerEntry {
            name: name.to_owned(),
            transport: "sse".to_owned(),
            mode: "shared".to_owned(),
            state: "ready".to_owned(),
            reason: "scripted".to_owned(),
        };
        vec![entry("a"), entry("b")]
    }
}

impl Drop for ScriptedLink {
    fn drop(&mut self) {
        self.script.links.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link for ScriptedLink {
    fn initialize_result(&self, revision: Revision) -> Bytes {
        let result = json!({"protocolVersion": revision.as_str(), "capabilities": {"tools": {}},
                            "serverInfo": {"name": &*self.name, "version": "1"}});
        Bytes::from(result.to_string())
    }

    fn is_own(&self) -> bool {
        false
    }

    fn is_outdated(&self) -> bool {
        false
    }

    fn era(&self) -> mcpool_wire::Era {
        mcpool_wire::Era::Legacy
    }

    fn check_params(&self, _: &str, _: &[u8], _: &Forwarded) -> Result<(), String> {
        Ok(())
    }

    fn call(&self, call: Call) -> Reply<Answer> {
        let running = Running::of(&self.script);
        Box::pin(async move {
            let _running = running;
            act(&call).await
        })
    }

    fn notify(&self, _: Bytes) {}

    fn respond(&self, _: u64, response: Message) {
        let envelope = Envelope::parse(response.bytes()).expect("what is forwarded is a message");
        assert!(envelope.method.is_none());
    }
}

/// A call the backend works on.
struct Running(Arc<Script>);

impl Running {
    fn of(script: &Arc<Script>) -> Self {
        script.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(script))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn act(call: &Call) -> Result<Answer, CallError> {
    let envelope =
        Envelope::parse_strict(call.message.bytes()).expect("what is forwarded is a strict message");
    assert!(envelope.beyond_limits().is_none());
    assert!(!matches!(call.method, Method::Initialize | Method::Ping));
    let name = call.name.as_deref().unwrap_or_default();
    match name {
        // Deadlines are kept behind the front, by the clock of the machine; here it is the runtime's.
        "hang" => {
            tokio::time::sleep(super::times().call).await;
            return Err(CallError::not_sent(ErrorKind::Deadline, "too slow").executed(Executed::Maybe));
        }
        "slow" => tokio::time::sleep(Duration::from_secs(1)).await,
        "progress" => {
            for step in 1..=3 {
                progress(call, step);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        "log" => push(call, LinkEvent::Notification(note("notifications/message", "\"level\":\"info\""))),
        "ask" => {
            let ask = message(r#"{"jsonrpc":"2.0","id":"s1","method":"roots/list"}"#.to_owned());
            push(call, LinkEvent::Request { id: 77, message: ask });
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        "fail" => return Err(CallError::not_sent(ErrorKind::Unavailable, "backend is down")),
        "lost" => return Err(CallError::not_sent(ErrorKind::Lost, "broke").executed(Executed::Maybe)),
        "lines" => return Ok(answer("{\"jsonrpc\":\"2.0\",\n\"id\":0,\r\n\"result\":{}}".to_owned())),
        _ => {}
    }
    Ok(answer(json!({"jsonrpc":"2.0","id":4711,"result":{"tool":name}}).to_string()))
}

fn progress(call: &Call, step: u32) {
    let Some(token) = call.message.token() else { return };
    let token = String::from_utf8_lossy(&token);
    let params = format!("\"progressToken\":{token},\"progress\":{step}");
    push(call, LinkEvent::Progress(note("notifications/progress", &params)));
}

fn note(method: &str, params: &str) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{params}}}}}"#))
}

fn push(call: &Call, event: LinkEvent) {
    // An agent that does not read misses it.
    let _ = call.outlet.as_ref().map(|outlet| outlet.push(event));
}

fn answer(text: String) -> Answer {
    Answer { message: message(text), is_rpc_error: false, is_tool_error: false }
}

fn message(text: String) -> Message {
    let bytes = Bytes::from(text);
    let envelope = Envelope::parse(&bytes).expect("our own message");
    Message::new(bytes.clone(), &envelope)
}
