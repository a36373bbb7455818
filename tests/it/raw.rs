//! A small server of either era that does the ordinary thing with every request but those a test wants otherwise.
//! Its sessions are numbered.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// What a request is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Status, type (none if empty), body.
    Whole(u16, String, String),
    /// A stream of events without one.
    Open,
    /// Not even headers.
    Never,
    /// The same after a pause.
    After(Duration, Box<Self>),
}

pub(crate) struct Server {
    pub(crate) url: String,
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    accepting: JoinHandle<()>,
}

type Odd = dyn Fn(&str, &Value) -> Option<Reply> + Send + Sync;

impl Reply {
    pub(crate) fn new(status: u16, kind: &str, body: &str) -> Self {
        Self::Whole(status, kind.to_owned(), body.to_owned())
    }

    fn json(body: &Value) -> Self {
        Self::new(200, "application/json", &body.to_string())
    }
}

impl Server {
    /// `odd` is asked first: by the HTTP method, or for a POST by the method of its message.
    pub(crate) async fn start(odd: impl Fn(&str, &Value) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        let (odd, counts): (Arc<Odd>, _) = (Arc::new(odd), Arc::<Mutex<BTreeMap<String, usize>>>::default());
        let seen = counts.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (odd, seen) = (odd.clone(), seen.clone());
                let service = service_fn(move |request| serve(odd.clone(), seen.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { url, counts, accepting }
    }

    /// How often it was asked for this.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.counts.lock().expect("not poisoned").get(method).copied().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    odd: Arc<Odd>,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = match head.method.as_str() {
        "POST" => message["method"].as_str().unwrap_or("response"),
        other => other,
    };
    let nth = {
        let mut seen = seen.lock().expect("not poisoned");
        let count = seen.entry(method.to_owned()).or_default();
        *count += 1;
        *count
    };
    let mut reply = odd(method, &message).unwrap_or_else(|| ordinary(method, &message));
    while let Reply::After(pause, then) = reply {
        tokio::time::sleep(pause).await;
        reply = *then;
    }
    let (status, kind, body) = match reply {
        Reply::After(..) => unreachable!("waited for above"),
        Reply::Never => std::future::pending().await,
        Reply::Open => {
            let frames = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
            (
                200,
                "text/event-stream".to_owned(),
                http_body_util::BodyExt::boxed_unsync(StreamBody::new(frames)),
            )
        }
        Reply::Whole(status, kind, body) => (status, kind, Full::new(Bytes::from(body)).boxed_unsync()),
    };
    let mut response = Response::builder().status(status);
    if !kind.is_empty() {
        response = response.header("content-type", kind);
    }
    if method == "initialize" && status == 200 {
        response = response.header("mcp-session-id", format!("session-{nth}"));
    }
    if status == 302 {
        response = response.header("location", "/elsewhere");
    }
    Ok(response.body(body).expect("a response"))
}

/// What a server with one tool says.
pub(crate) fn ordinary(method: &str, message: &Value) -> Reply {
    let result = match method {
        "initialize" => json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": { "tools": { "listChanged": true } },
            "serverInfo": { "name": "raw", "version": "1" },
        }),
        "server/discover" => json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
            "capabilities": { "tools": { "listChanged": true } },
        }),
        "tools/list" => json!({ "resultType": "complete", "tools": [{ "name": "echo", "inputSchema": {} }] }),
        "tools/call" => json!({
            "resultType": "complete",
            "content": [{ "type": "text", "text": message["params"]["arguments"].to_string() }],
        }),
        "GET" => return Reply::new(405, "", ""),
        "DELETE" => return Reply::new(200, "", ""),
        _ if message["id"].is_null() => return Reply::new(202, "", ""),
        _ => json!({ "resultType": "complete" }),
    };
    Reply::json(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
}
