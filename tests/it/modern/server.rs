//! A backend that has only the era without handshake. It counts what its clients get wrong.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(super) struct Modern {
    pub(super) url: String,
    pub(super) world: Arc<World>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct World {
    /// Requests whose headers and body do not say the same, or that say too little.
    pub(super) defects: Mutex<Vec<String>>,
    /// How often each method was called.
    counts: Mutex<BTreeMap<String, usize>>,
    listeners: Mutex<Vec<Listener>>,
    /// Calls of `slow` that nobody waits for any more.
    pub(super) left: AtomicUsize,
    pub(super) started: AtomicUsize,
}

struct Listener {
    id: Value,
    wanted: Value,
    to: mpsc::Sender<String>,
}

impl Modern {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        let world = Arc::new(World::default());
        let shared = world.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let world = shared.clone();
                let service = service_fn(move |request| serve(world.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { url, world, accepting }
    }

    pub(super) fn count(&self, method: &str) -> usize {
        lock(&self.world.counts).get(method).copied().unwrap_or_default()
    }

    /// Streams of news that are open and want this.
    pub(super) fn listeners(&self, wants: impl Fn(&Value) -> bool) -> usize {
        let mut listeners = lock(&self.world.listeners);
        listeners.retain(|one| !one.to.is_closed());
        listeners.iter().filter(|one| wants(&one.wanted)).count()
    }
}

impl Drop for Modern {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl World {
    fn tell(&self, method: &str, params: &Value, wants: impl Fn(&Value) -> bool) {
        for one in lock(&self.listeners).iter().filter(|one| wants(&one.wanted)) {
            let mut params = params.clone();
            params["_meta"] = json!({ SUBSCRIPTION: one.id });
            let message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
            // One that does not read is not waited for.
            let _ = one.to.try_send(event(&message));
        }
    }
}

async fn serve(world: Arc<World>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = message["method"].as_str().unwrap_or_default().to_owned();
    if method == "initialize" || head.method != "POST" {
        return Ok(failed(400, &message, -32022, "only 2026-07-28 is spoken here"));
    }
    *lock(&world.counts).entry(method.clone()).or_default() += 1;
    let said = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (params, meta) = (&message["params"], &message["params"]["_meta"]);
    let named = ["name", "uri"].iter().find_map(|key| params[*key].as_str()).unwrap_or_default();
    let needs_name = matches!(method.as_str(), "tools/call" | "prompts/get" | "resources/read");
    let is_right = message["id"].is_number()
        && meta[VERSION] == "2026-07-28"
        && meta[CAPABILITIES].is_object()
        && said("mcp-protocol-version") == "2026-07-28"
        && said("mcp-method") == method
        && (!needs_name || said("mcp-name") == named)
        && (named != "region" || said("mcp-param-region") == params["arguments"]["region"])
        && !head.headers.contains_key("mcp-session-id");
    if !is_right {
        lock(&world.defects).push(format!("{:?} {message}", head.headers));
        return Ok(failed(400, &message, -32020, "headers and body do not say the same"));
    }
    Ok(match method.as_str() {
        "server/discover" => done(
            &message,
            json!({
                "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                "capabilities": {
                    "tools": { "listChanged": true }, "resources": { "subscribe": true }, "logging": {}, "extensions": { "a/b": {} } },
                "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "modern", "version": "1" } },
            }),
        ),
        "tools/list" => done(&message, json!({ "ttlMs": 0, "cacheScope": "private", "tools": tools() })),
        "resources/read" => done(&message, json!({ "contents": [{ "uri": named, "text": "read" }] })),
        "subscriptions/listen" => listen(&world, &message),
        "tools/call" => call(&world, &message, named),
        _ => failed(404, &message, -32601, "no such method"),
    })
}

fn tools() -> Value {
    let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" } });
    let mut tools: Vec<Value> = ["echo", "work", "ask", "change", "update", "slow"].map(tool).into();
    tools.push(json!({ "name": "region", "inputSchema": { "type": "object", "properties": {
        "region": { "type": "string", "x-mcp-header": "Region" } } } }));
    tools.push(json!({ "name": "unusable", "inputSchema": { "type": "object", "properties": {
        "n": { "type": "number", "x-mcp-header": "N" } } } }));
    Value::Array(tools)
}

fn call(world: &Arc<World>, message: &Value, name: &str) -> Reply {
    let params = &message["params"];
    let arguments = &params["arguments"];
    match name {
        "echo" | "region" => text(message, &arguments.to_string()),
        "work" => work(message),
        "ask" => ask(message),
        "change" => {
            world.tell("notifications/tools/list_changed", &json!({}), |wanted| {
                wanted["toolsListChanged"] == true
            });
            text(message, "changed")
        }
        "update" => {
            let uri = &arguments["uri"];
            let watches = |wanted: &Value| {
                wanted["resourceSubscriptions"].as_array().is_some_and(|all| all.contains(uri))
            };
            world.tell("notifications/resources/updated", &json!({ "uri": uri }), watches);
            text(message, "updated")
        }
        "slow" => slow(world),
        _ => failed(400, message, -32602, "no such tool"),
    }
}

/// Progress, a line of the log if it is wanted, and the result.
fn work(message: &Value) -> Reply {
    let meta = &message["params"]["_meta"];
    let mut said = String::new();
    for step in 1..=2 {
        let params = json!({ "progressToken": meta["progressToken"], "progress": step });
        said += &event(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }));
    }
    if let Some(level) = meta[LOG_LEVEL].as_str() {
        let params = json!({ "level": "warning", "data": format!("wanted {level}") });
        said += &event(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }));
    }
    said += &event(&answer(message, json!({ "content": [{ "type": "text", "text": "worked" }] })));
    response(200, "text/event-stream", Full::new(Bytes::from(said)).boxed_unsync())
}

/// Asks who is there; its state says which call it was.
fn ask(message: &Value) -> Reply {
    let params = &message["params"];
    let nonce = &params["arguments"]["nonce"];
    if params["_meta"][CAPABILITIES]["elicitation"].is_null() {
        let error = json!({ "code": -32021, "message": "nobody to ask", "data": { "requiredCapabilities": { "elicitation": {} } } });
        return json_reply(400, &json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }));
    }
    let Some(said) = params.get("inputResponses") else {
        let form = json!({ "type": "object", "properties": { "name": { "type": "string" } } });
        let question = json!({ "method": "elicitation/create", "params": { "message": nonce, "requestedSchema": form } });
        let asked = json!({ "resultType": "input_required", "inputRequests": { "who": question }, "requestState": format!("of {nonce}") });
        return json_reply(200, &json!({ "jsonrpc": "2.0", "id": message["id"], "result": asked }));
    };
    if params["requestState"] != format!("of {nonce}") {
        return failed(400, message, -32602, "the state of another call");
    }
    text(message, said["who"]["content"]["name"].as_str().unwrap_or("nobody"))
}

/// Never answers; notices when nobody waits any more.
fn slow(world: &Arc<World>) -> Reply {
    let (to, from) = mpsc::channel::<String>(1);
    to.try_send(": working\n\n".to_owned()).expect("room");
    world.started.fetch_add(1, Ordering::SeqCst);
    let world = world.clone();
    tokio::spawn(async move {
        to.closed().await;
        world.left.fetch_add(1, Ordering::SeqCst);
    });
    events(from)
}

fn listen(world: &World, message: &Value) -> Reply {
    let wanted = message["params"]["notifications"].clone();
    let (to, from) = mpsc::channel(256);
    let params = json!({ "notifications": wanted, "_meta": { SUBSCRIPTION: message["id"] } });
    let acknowledged =
        json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params });
    to.try_send(event(&acknowledged)).expect("room");
    lock(&world.listeners).push(Listener { id: message["id"].clone(), wanted, to });
    events(from)
}

fn events(from: mpsc::Receiver<String>) -> Reply {
    let frames = stream::unfold(from, async |mut from| {
        let text = from.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), from))
    });
    response(200, "text/event-stream", http_body_util::BodyExt::boxed_unsync(StreamBody::new(frames)))
}

fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

fn text(message: &Value, text: &str) -> Reply {
    done(message, json!({ "content": [{ "type": "text", "text": text }] }))
}

fn done(message: &Value, result: Value) -> Reply {
    json_reply(200, &answer(message, result))
}

fn answer(message: &Value, mut result: Value) -> Value {
    result["resultType"] = json!("complete");
    json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })
}

fn failed(status: u16, message: &Value, code: i64, why: &str) -> Reply {
    let error = json!({ "code": code, "message": why });
    json_reply(status, &json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }))
}

fn json_reply(status: u16, body: &Value) -> Reply {
    response(status, "application/json", Full::new(Bytes::from(body.to_string())).boxed_unsync())
}

fn response(status: u16, content: &str, body: UnsyncBoxBody<Bytes, Infallible>) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert(CONTENT_TYPE, content.parse().expect("a header"));
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
