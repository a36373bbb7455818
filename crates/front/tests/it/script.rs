//! What lies behind the front in these tests: backends in memory whose tools do what their name says.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::HeaderName;
use mcpool_front::{FrontEvent, FrontObserve, Health, Readiness};
use mcpool_wire::{
    Answer, Backends, Call, CallError, Caller, ClientHello, Envelope, Era, ErrorKind, Executed, Forwarded,
    Hello, Identity, Link, LinkEvent, Message, Outlet, Reply, Revision, ServerEntry, Target,
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

/// Backends `a` (the default) and `b`.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) opened: AtomicUsize,
    pub(crate) links: Arc<AtomicUsize>,
    pub(crate) dropped_calls: Arc<AtomicUsize>,
    pub(crate) finished_calls: AtomicUsize,
    pub(crate) hellos: Mutex<Vec<Hello>>,
    /// For whom a target or the servers were asked for.
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) notified: Mutex<Vec<String>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    /// `Some`: `open` waits for a permit.
    pub(crate) open_gate: Mutex<Option<Arc<Semaphore>>>,
    /// The next `open` panics.
    pub(crate) open_panics: AtomicBool,
    pub(crate) open_error: Mutex<Option<CallError>>,
    /// Whether each agent gets a session of its own.
    pub(crate) own: AtomicBool,
    /// Whether agents had better come with a handshake.
    pub(crate) keeps_state: AtomicBool,
    /// Whether the links there are were better others.
    pub(crate) outdated: AtomicBool,
    /// The headers of agents that both are given, in order.
    pub(crate) forwards: Mutex<Vec<HeaderName>>,
    /// Whether the backends speak the era without handshake.
    pub(crate) modern: AtomicBool,
    /// Numbers and answers that were passed on, of all links.
    pub(crate) responded: Mutex<Vec<(u64, String)>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) events: Mutex<Vec<String>>,
}

/// Holds back the tools called `gated` and `progress`.
pub(crate) struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn close(&self) {
        self.0.send_replace(false);
    }

    async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

pub(crate) struct ScriptedLink {
    script: Arc<Script>,
    hello: Hello,
    answers: watch::Sender<Vec<(u64, String)>>,
}

pub(crate) struct Scripted(pub Arc<Script>);

impl Backends for Scripted {
    type Link = ScriptedLink;

    fn target(&self, name: Option<&str>, caller: &Identity) -> Result<Target, String> {
        self.0.asked.lock().unwrap().push(caller.to_string());
        match name.unwrap_or("a") {
            known @ ("a" | "b") => Ok(Target::named(known)),
            other => Err(format!("no backend {other:?}; known are a, b")),
        }
    }

    fn open(&self, hello: Hello) -> Reply<Arc<ScriptedLink>> {
        let script = Arc::clone(&self.0);
        Box::pin(async move {
            script.opened.fetch_add(1, Ordering::SeqCst);
            script.hellos.lock().unwrap().push(hello.clone());
            assert!(!script.open_panics.swap(false, Ordering::SeqCst), "as the test wants it");
            let gate = script.open_gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            if let Some(error) = script.open_error.lock().unwrap().clone() {
                return Err(error);
            }
            script.links.fetch_add(1, Ordering::SeqCst);
            Ok(Arc::new(ScriptedLink { script, hello, answers: watch::Sender::new(Vec::new()) }))
        })
    }

    fn prefers_handshake(&self, _: &Target, _: &Caller, _: &ClientHello) -> bool {
        self.0.keeps_state.load(Ordering::SeqCst)
    }

    fn forwards(&self, _: &Target) -> Arc<[HeaderName]> {
        self.0.forwards.lock().unwrap().as_slice().into()
    }

    fn servers(&self, caller: &Identity) -> Vec<ServerEntry> {
        self.0.asked.lock().unwrap().push(caller.to_string());
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
        self.script.links.fetch_sub(1, Ordering::SeqCst);
    }
}

struct DropCount(Arc<AtomicUsize>, bool);

impl DropCount {
    fn finish(&mut self) {
        self.1 = true;
    }
}

impl Drop for DropCount {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Link for ScriptedLink {
    fn initialize_result(&self, revision: Revision) -> Bytes {
        let name = &self.hello.target.name;
        Bytes::from(
            json!({"protocolVersion": revision.as_str(),
                   "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}},
                   "serverInfo": {"name": &**name, "version": "1"}})
            .to_string(),
        )
    }

    fn is_own(&self) -> bool {
        self.script.own.load(Ordering::SeqCst)
    }

    fn is_outdated(&self) -> bool {
        self.script.outdated.load(Ordering::SeqCst)
    }

    fn era(&self) -> mcpool_wire::Era {
        if self.script.modern.load(Ordering::SeqCst) { Era::Modern } else { Era::Legacy }
    }

    /// Here an argument `x` is said in `Mcp-Param-X`, too.
    fn check_params(&self, _: &str, message: &[u8], headers: &Forwarded) -> Result<(), String> {
        let call: Value = serde_json::from_slice(message).unwrap();
        let sent = headers.iter().find(|(name, _)| *name == "mcp-param-x").map(|(_, value)| value.as_bytes());
        let meant = call["params"]["arguments"]["x"].as_str().map(str::as_bytes);
        if sent == meant { Ok(()) } else { Err("x differs".to_owned()) }
    }

    fn call(&self, call: Call) -> Reply<Answer> {
        self.script.calls.lock().unwrap().push(call.clone());
        let script = Arc::clone(&self.script);
        let mut answers = self.answers.subscribe();
        let backend = Arc::clone(&self.hello.target.name);
        let mut alive = DropCount(Arc::clone(&script.dropped_calls), false);
        if !matches!(call.name.as_deref(), Some("waits" | "boom")) {
            call.trace.mark_sent(call.trace.started);
        }
        Box::pin(async move {
            let result = act(&script, &call, &mut answers, backend).await;
            alive.finish();
            script.finished_calls.fetch_add(1, Ordering::SeqCst);
            result
        })
    }

    fn notify(&self, notification: Bytes) {
        self.script.notified.lock().unwrap().push(String::from_utf8(notification.to_vec()).unwrap());
    }

    fn respond(&self, id: u64, response: Message) {
        let text = String::from_utf8(response.bytes().to_vec()).unwrap();
        self.script.responded.lock().unwrap().push((id, text.clone()));
        self.answers.send_modify(|all| all.push((id, text)));
    }
}

async fn act(
    script: &Script,
    call: &Call,
    answers: &mut watch::Receiver<Vec<(u64, String)>>,
    backend: Arc<str>,
) -> Result<Answer, CallError> {
    let message: Value = serde_json::from_slice(call.message.bytes()).unwrap();
    let arguments = message["params"]["arguments"].clone();
    match call.name.as_deref().unwrap_or(call.method.as_str()) {
        // `waits` has no session yet.
        "hang" | "waits" => std::future::pending().await,
        "boom" => panic!("as the test wants it"),
        "boom-later" => {
            progress(call, &message, 1);
            script.gate.wait().await;
            panic!("as the test wants it");
        }
        "gated" => script.gate.wait().await,
        "lines" => return Ok(raw("{\"jsonrpc\":\"2.0\",\n\"id\":0,\r\n\"result\":{}}".to_owned())),
        "big" => {
            let size = usize::try_from(arguments["size"].as_u64().unwrap()).unwrap();
            return Ok(answer(&json!({"text": "x".repeat(size)})));
        }
        "progress" => {
            for step in 1..=2 {
                progress(call, &message, step);
            }
            script.gate.wait().await;
        }
        "progress-now" => progress(call, &message, 1),
        "log" => log(call, "said"),
        "all-levels" => {
            for level in ["debug", "info", "warning", "emergency"] {
                log_at(call, level, level);
            }
        }
        "nobodys" => {
            let note = json!({"jsonrpc":"2.0","method":"notifications/tools/list_changed"});
            let event = LinkEvent::Notification(Bytes::from(note.to_string()));
            let _ = call.outlet.as_ref().unwrap().push(event);
            let ask = json!({"jsonrpc":"2.0","id":"s1","method":"roots/list"}).to_string();
            let asked =
                call.outlet.as_ref().unwrap().push(LinkEvent::Request { id: 77, message: message_of(ask) });
            assert!(asked.is_err(), "nobody can be asked");
        }
        "code" => {
            let error = json!({"code": arguments["code"], "message": "as the test wants it"});
            let text = json!({"jsonrpc":"2.0","id":4711,"error":error}).to_string();
            return Ok(Answer { is_rpc_error: true, ..raw(text) });
        }
        "log-gated" => {
            log(call, "before");
            script.gate.wait().await;
            log(call, "after");
        }
        "pause" => {
            log(call, "before");
            let wait = Duration::from_millis(arguments["wait_ms"].as_u64().unwrap());
            call.outlet.as_ref().unwrap().push(LinkEvent::Paused(wait)).unwrap();
            script.gate.wait().await;
        }
        "ask" => return Ok(answer(&json!({"heard": ask(call, answers).await}))),
        "progress-ask" => {
            progress(call, &message, 1);
            let heard = ask(call, answers).await;
            progress(call, &message, 2);
            return Ok(answer(&json!({"heard": heard})));
        }
        "ask-both" => {
            for id in [77, 78] {
                let ask = json!({"jsonrpc":"2.0","id":id,"method":"roots/list"}).to_string();
                let asked = LinkEvent::Request { id, message: message_of(ask) };
                call.outlet.as_ref().unwrap().push(asked).unwrap();
                tokio::task::yield_now().await;
            }
            let all = answers.wait_for(|all| all.len() == 2).await.unwrap();
            return Ok(answer(&json!({"heard": all.len()})));
        }
        // Does not wait for what it asks.
        "ask-big" => {
            let ask = json!({"jsonrpc":"2.0","id":"s1","method":"roots/list"}).to_string();
            let asked = LinkEvent::Request { id: 77, message: message_of(ask) };
            call.outlet.as_ref().unwrap().push(asked).unwrap();
            script.gate.wait().await;
            let size = usize::try_from(arguments["size"].as_u64().unwrap()).unwrap();
            return Ok(answer(&json!({"text": "x".repeat(size)})));
        }
        "ask-hang" => {
            ask(call, answers).await;
            std::future::pending().await
        }
        // Two backends are behind this one, and the other one serves it.
        "other" => {
            call.trace.mark_served_by("b".into());
            script.gate.wait().await;
        }
        "fail" => {
            return Err(CallError::not_sent(ErrorKind::Unavailable, "backend is down").of_backend(backend));
        }
        "lost" => {
            return Err(CallError::not_sent(ErrorKind::Lost, "session broke").executed(Executed::Maybe));
        }
        _ => {}
    }
    Ok(answer(&json!({"tool": call.name.as_deref(), "backend": &*backend, "arguments": arguments})))
}

/// Asks the caller, and gives back what it said.
async fn ask(call: &Call, answers: &mut watch::Receiver<Vec<(u64, String)>>) -> Value {
    let ask = json!({"jsonrpc":"2.0","id":"s1","method":"roots/list"}).to_string();
    let asked = LinkEvent::Request { id: 77, message: message_of(ask) };
    call.outlet.as_ref().unwrap().push(asked).unwrap();
    let all = answers.wait_for(|all| !all.is_empty()).await.unwrap();
    assert_eq!(all[0].0, 77);
    let heard: Value = serde_json::from_str(&all[0].1).unwrap();
    heard["result"].clone()
}

fn progress(call: &Call, message: &Value, step: u32) {
    let token = &message["params"]["_meta"]["progressToken"];
    let note = json!({"jsonrpc":"2.0","method":"notifications/progress",
                      "params":{"progressToken": token, "progress": step}});
    if let Some(outlet) = &call.outlet {
        let _ = outlet.push(LinkEvent::Progress(Bytes::from(note.to_string())));
    }
}

fn log(call: &Call, text: &str) {
    log_at(call, "info", text);
}

fn log_at(call: &Call, level: &str, text: &str) {
    let note = json!({"jsonrpc":"2.0","method":"notifications/message","params":{"level":level,"data":text}});
    if let Some(outlet) = &call.outlet {
        let _ = outlet.push(LinkEvent::Notification(Bytes::from(note.to_string())));
    }
}

pub(crate) fn answer(result: &Value) -> Answer {
    raw(json!({"jsonrpc":"2.0","id":4711,"result":result}).to_string())
}

fn raw(text: String) -> Answer {
    Answer { message: message_of(text), is_rpc_error: false, is_tool_error: false }
}

pub(crate) fn message_of(text: String) -> Message {
    let bytes = Bytes::from(text);
    let envelope = Envelope::parse(&bytes).unwrap();
    Message::new(bytes.clone(), &envelope)
}

impl Script {
    /// The outlet of the newest link.
    pub(crate) fn outlet(&self) -> Arc<dyn Outlet> {
        Arc::clone(&self.hellos.lock().unwrap().last().unwrap().outlet)
    }

    pub(crate) fn saw(&self, what: &str) -> usize {
        self.events.lock().unwrap().iter().filter(|event| event.contains(what)).count()
    }
}

pub(crate) struct Watcher(pub Arc<Script>);

impl FrontObserve for Watcher {
    fn on(&self, event: &FrontEvent<'_>) {
        let line = match event {
            FrontEvent::CallEnded(end) => format!(
                "call {} {} {} executed={} {}",
                end.method.as_str(),
                end.backend,
                end.outcome.as_str(),
                end.executed.as_str(),
                end.request_id
            ),
            FrontEvent::Responded { transport, code, cause } => {
                format!("responded {} {code} {}", transport.as_str(), cause.as_str())
            }
            FrontEvent::AgentClosed { reason, .. } => format!("closed {}", reason.as_str()),
            other => format!("{other:?}"),
        };
        self.0.events.lock().unwrap().push(line);
    }
}

pub(crate) struct Healthy(pub Readiness);

impl Health for Healthy {
    fn readiness(&self) -> Readiness {
        self.0
    }

    fn version(&self) -> &str {
        "9.9.9"
    }

    fn details(&self) -> serde_json::Map<String, Value> {
        serde_json::Map::from_iter([("backends".to_owned(), json!({"a": "ready"}))])
    }
}
