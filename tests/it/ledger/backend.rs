//! The backend: it keeps the ledger, and answers calls as the program says.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use http::{Method, Request};
use mcpool_upstream::transport::wire::{self, Answering, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    sync::mpsc,
};

use super::program::{Body, Call, End, Id, Kind, Reaction};

/// Clones are the same backend.
#[derive(Clone)]
pub(super) struct Fake {
    kind: Kind,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
pub(super) struct Book {
    /// The calls of all programs by their number.
    pub(super) calls: BTreeMap<u64, Call>,
    /// How often each came, and how often it ran.
    pub(super) came: BTreeMap<u64, usize>,
    pub(super) ran: BTreeMap<u64, usize>,
    pub(super) handshakes: usize,
    sessions: BTreeSet<String>,
    streams: BTreeMap<String, mpsc::UnboundedSender<String>>,
}

impl Fake {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, book: Arc::default() }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("not poisoned")
    }

    /// It was started anew: whoever comes under an old session is not known.
    pub(super) fn forget(&self) {
        let mut book = self.book();
        book.sessions.clear();
        book.streams.clear();
    }

    pub(super) fn answering(&self) -> Answering {
        let fake = self.clone();
        Arc::new(move |request| {
            let fake = fake.clone();
            async move { fake.answer(&request) }.boxed()
        })
    }

    /// Each line is answered by a line; what breaks off is the end of the program.
    pub(super) fn program(&self) -> wire::Program {
        let fake = self.clone();
        Arc::new(move |pipe| {
            let fake = fake.clone();
            async move {
                let (input, mut output) = tokio::io::split(pipe);
                let mut lines = BufReader::new(input).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let Some(mut answer) = fake.post(&Request::new(line.into())) else { return };
                    while let Some(piece) = answer.body.next().await {
                        let Ok(piece) = piece else { return };
                        let _ = output.write_all(&piece).await;
                    }
                    let _ = output.write_all(b"\n").await;
                }
            }
            .boxed()
        })
    }

    fn answer(&self, request: &Request<Bytes>) -> Option<Response> {
        match *request.method() {
            Method::GET if self.kind == Kind::Sse => Some(self.stream()),
            Method::GET => Some(said(405, "text/plain", "no stream")),
            Method::DELETE => Some(said(200, "text/plain", "")),
            _ => self.post(request),
        }
    }

    fn stream(&self) -> Response {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut book = self.book();
        let id = format!("s{}", book.handshakes);
        let _ = tx.send(format!("event: endpoint\ndata: /m?s={id}\n\n"));
        book.streams.insert(id.clone(), tx);
        book.sessions.insert(id);
        let body = stream::unfold(rx, |mut rx| async { Some((Ok(Bytes::from(rx.recv().await?)), rx)) });
        Response {
            status: 200,
            headers: vec![("content-type", "text/event-stream".to_owned())],
            body: body.boxed(),
        }
    }

    fn post(&self, request: &Request<Bytes>) -> Option<Response> {
        let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default();
        let session = match self.kind {
            Kind::Sessions => request.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()),
            Kind::Sse => request.uri().query().and_then(|query| query.strip_prefix("s=")),
            Kind::NoSessions | Kind::Modern | Kind::Stdio => None,
        };
        let has_sessions = matches!(self.kind, Kind::Sessions | Kind::Sse);
        let is_hello = matches!(method, "initialize" | "server/discover");
        if has_sessions
            && !(is_hello && self.kind == Kind::Sessions)
            && !session.is_some_and(|id| self.book().sessions.contains(id))
        {
            return Some(said(404, "text/plain", "who?"));
        }
        let session = session.map(str::to_owned);
        match method {
            "initialize" => {
                let mut book = self.book();
                book.handshakes += 1;
                let id = format!("s{}", book.handshakes);
                let params = json!({
                    "protocolVersion": "2025-11-25", "serverInfo": {"name": "ledger", "version": "1"},
                    "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
                });
                let mut answer = self.plainly(&mut book, session.as_deref(), &message["id"], &params);
                if self.kind == Kind::Sessions {
                    answer.headers.push(("mcp-session-id", id.clone()));
                    book.sessions.insert(id);
                }
                Some(answer)
            }
            "server/discover" => {
                // There are no sessions in this era: it is asked whenever silence is to be broken.
                let mut book = self.book();
                let result = json!({
                    "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0,
                    "cacheScope": "private", "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
                });
                Some(self.plainly(&mut book, None, &message["id"], &result))
            }
            "tools/list" => {
                let tool = |name, read_only| json!({"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": read_only}});
                let result = json!({"tools": [tool("read", true), tool("write", false)], "resultType": "complete",
                    "ttlMs": 0, "cacheScope": "private"});
                Some(self.plainly(&mut self.book(), session.as_deref(), &message["id"], &result))
            }
            "tools/call" | "prompts/get" | "resources/read" => self.called(session.as_deref(), &message),
            _ if message["id"].is_null() => Some(said(202, "text/plain", "")),
            _ => Some(self.plainly(&mut self.book(), session.as_deref(), &message["id"], &json!({}))),
        }
    }

    /// A usual answer.
    fn plainly(&self, book: &mut Book, session: Option<&str>, id: &Value, result: &Value) -> Response {
        let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
        if self.kind != Kind::Sse {
            return said(200, "application/json", &body);
        }
        if let Some(stream) = session.and_then(|id| book.streams.get(id)) {
            let _ = stream.send(format!("data: {body}\n\n"));
        }
        said(202, "text/plain", "")
    }

    fn called(&self, session: Option<&str>, message: &Value) -> Option<Response> {
        let number = message["params"]["_meta"]["call"].as_u64().unwrap_or(0);
        let mut book = self.book();
        let came = book.came.entry(number).or_default();
        *came += 1;
        let time = *came - 1;
        let reaction = book.calls.get(&number)?.reaction(time).clone();
        if reaction.wants_to_run && !reaction.is_refusal(self.kind) {
            *book.ran.entry(number).or_default() += 1;
        }
        let text = body_of(&reaction, &message["id"], number);
        if self.kind == Kind::Sse
            && (200..300).contains(&reaction.status)
            && reaction.end == End::Whole
            && !text.is_empty()
            && let Some(stream) = session.and_then(|id| book.streams.get(id))
        {
            let _ = stream.send(format!("data: {text}\n\n"));
        }
        drop(book);
        respond(&reaction, text)
    }
}

fn body_of(reaction: &Reaction, ours: &Value, number: u64) -> String {
    let id = match reaction.id {
        Id::Ours => format!("\"id\":{ours},"),
        Id::AsText => format!("\"id\":\"{ours}\","),
        Id::Null => "\"id\":null,".to_owned(),
        Id::Foreign => "\"id\":9007199254740000,".to_owned(),
        Id::Word => "\"id\":\"server-error\",".to_owned(),
        Id::Absent => String::new(),
    };
    let result = format!("\"result\":{{\"call\":{number},\"resultType\":\"complete\"}}");
    match reaction.body {
        Body::Result => format!("{{\"jsonrpc\":\"2.0\",{id}{result}}}"),
        Body::Nulls => format!("{{\"jsonrpc\":\"2.0\",{id}{result},\"error\":null,\"method\":null}}"),
        Body::Array => format!(
            "[{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}},{{\"jsonrpc\":\"2.0\",{id}{result}}}]"
        ),
        Body::Error(code, words) => {
            let words = Value::from(words);
            format!("{{\"jsonrpc\":\"2.0\",{id}\"error\":{{\"code\":{code},\"message\":{words}}}}}")
        }
        Body::Html => "<html><body>session not found</body></html>".to_owned(),
        Body::Empty => String::new(),
        Body::Json => "{\"error\":\"session expired\"}".to_owned(),
    }
}

fn respond(reaction: &Reaction, text: String) -> Option<Response> {
    if reaction.end == End::Broken {
        return None;
    }
    let is_events = reaction.content == "text/event-stream" && !text.is_empty();
    let text = if is_events { format!("data: {text}\n\n") } else { text };
    let mut answer = said(reaction.status, reaction.content, if reaction.status == 204 { "" } else { &text });
    if reaction.end == End::Cut {
        let half = Bytes::from(text[..text.len() / 2].to_owned());
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        answer.body = stream::iter([Ok(half), Err(reset)]).boxed();
    }
    Some(answer)
}

fn said(status: u16, content: &str, body: &str) -> Response {
    let body = Bytes::from(body.to_owned());
    let headers = vec![("content-type", content.to_owned())];
    Response { status, headers, body: stream::iter([Ok(body)]).boxed() }
}
