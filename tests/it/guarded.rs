//! A server that serves whoever brings a good token, notes what it was sent, and tells whoever brings a bad one so by
//! name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub(crate) struct Guarded {
    addr: SocketAddr,
    book: Arc<Mutex<Book>>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// What it was sent.
#[derive(Default)]
pub(crate) struct Book {
    /// The token each session was opened with.
    sessions: BTreeMap<String, Option<String>>,
    opened: usize,
    /// Handshakes by token.
    pub(crate) greeted: BTreeMap<Option<String>, usize>,
    /// Tokens that open nothing any more.
    pub(crate) revoked: BTreeSet<String>,
    /// Messages with another token than their session's.
    pub(crate) mixed: BTreeSet<String>,
}

struct Asked {
    method: String,
    token: Option<String>,
    session: Option<String>,
    body: Value,
}

impl Guarded {
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn start_at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.expect("a port");
        let (book, stop) = (Arc::<Mutex<Book>>::default(), CancellationToken::new());
        let addr = listener.local_addr().expect("an address");
        let (noted, stopped, tasks) = (book.clone(), stop.clone(), TaskTracker::new());
        let serving = tasks.clone();
        tasks.spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let (book, stopped) = (noted.clone(), stopped.clone());
                serving.spawn(async move { stopped.run_until_cancelled(serve(stream, book)).await });
            }
        });
        Self { addr, book, tasks, stop: stop.drop_guard() }
    }

    /// Ends it. From then on nothing listens and every connection is closed.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.addr)
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("not poisoned")
    }

    /// As a server does that was restarted.
    pub(crate) fn forget(&self) {
        self.book().sessions.clear();
    }
}

async fn serve(stream: TcpStream, book: Arc<Mutex<Book>>) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read(&mut stream).await {
        let answer = answer(&asked, &mut book.lock().expect("not poisoned"));
        if asked.token.is_some_and(|token| token.contains("hang")) {
            std::future::pending::<()>().await;
        }
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        let of = |line: &&String| line.split(':').next().is_some_and(|one| one.eq_ignore_ascii_case(name));
        lines.iter().skip(1).find(of).map(|line| line[name.len() + 1..].trim().to_owned())
    };
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let method = lines.first()?.split(' ').next()?.to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Some(Asked { method, token: header("authorization"), session: header("mcp-session-id"), body })
}

fn answer(asked: &Asked, book: &mut Book) -> String {
    if asked.method == "GET" {
        return response("405 Method Not Allowed", "", "");
    }
    let method = asked.body["method"].as_str().unwrap_or_default();
    if method == "initialize" {
        *book.greeted.entry(asked.token.clone()).or_default() += 1;
    }
    let refused = match asked.token.as_deref() {
        None => Some("the token is missing".to_owned()),
        Some(token) => {
            let is_bad = token.contains("bad") || (method == "initialize" && book.revoked.contains(token));
            is_bad.then(|| format!("{token} has no licence"))
        }
    };
    if method == "initialize" && asked.token.as_deref().is_some_and(|token| token.contains("busy")) {
        return response("429 Too Many Requests", "retry-after: 30\r\n", "slow down");
    }
    if let Some(message) = refused {
        let error = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32000, "message": message } });
        return response("401 Unauthorized", "", &error.to_string());
    }
    let id = &asked.body["id"];
    let result = |headers: &str, result: Value| {
        let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
        response("200 OK", headers, &answer.to_string())
    };
    if method == "initialize" {
        book.opened += 1;
        let session = format!("s{}", book.opened);
        book.sessions.insert(session.clone(), asked.token.clone());
        let hello = json!({
            "protocolVersion": asked.body["params"]["protocolVersion"], "capabilities": { "tools": {} },
            "serverInfo": { "name": "guarded", "version": "1" },
            "instructions": format!("for {}", asked.token.as_deref().unwrap_or_default()),
        });
        return result(&format!("mcp-session-id: {session}\r\n"), hello);
    }
    let opened_with = asked.session.as_ref().and_then(|session| book.sessions.get(session).cloned());
    match opened_with {
        None => {
            let error = json!({ "code": -32001, "message": "Session not found" });
            let error = json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string();
            return response("404 Not Found", "", &error);
        }
        Some(token) if token != asked.token => {
            book.mixed.insert(format!("{:?} on a session of {token:?}: {method}", asked.token));
        }
        Some(_) => {}
    }
    let token = asked.token.as_deref().unwrap_or_default();
    let tool = json!({ "name": "whoami", "inputSchema": { "type": "object" } });
    match method {
        _ if asked.method == "DELETE" => response("200 OK", "", ""),
        "ping" => result("", json!({})),
        "tools/list" => result("", json!({ "tools": [tool] })),
        "tools/call" => result("", json!({ "content": [{ "type": "text", "text": token }] })),
        _ => response("202 Accepted", "", ""),
    }
}

fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}
