//! A raw MCP server below every SDK: Streamable HTTP at `/mcp`, HTTP+SSE at `/sse`, and a book of what ran.
//!
//! The subtle thing: a tool is a function of the bar that may wait, ask, or write bytes that are no answer, so each
//! connection has a thread; all of them end when the server is dropped.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

/// What a tool does.
type Tool = dyn Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync;
/// What is refused before anything else: with a status and a body.
type Gate = fn(&Asked) -> Option<(u16, String)>;

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) book: Arc<Book>,
}

/// What the server was asked.
#[derive(Debug, Default)]
pub(super) struct Book {
    opened: AtomicU64,
    cancelled: AtomicU64,
    runs: Mutex<BTreeMap<String, u64>>,
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    stopping: AtomicBool,
}

/// One session: the stream it pushes to, and what its client answered.
#[derive(Debug, Default)]
struct Session {
    stream: Mutex<Option<TcpStream>>,
    replies: Mutex<Vec<Value>>,
    replied: Condvar,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Sessions opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Cancellations that came.
    pub(super) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// How often the call with this nonce ran.
    pub(super) fn runs(&self, nonce: &str) -> u64 {
        locked(&self.runs).get(nonce).copied().unwrap_or(0)
    }

    /// How many calls with a nonce ran.
    pub(super) fn ran(&self) -> u64 {
        locked(&self.runs).values().sum()
    }
}

/// One HTTP request.
#[derive(Debug)]
pub(super) struct Asked {
    method: String,
    path: String,
    head: Vec<(String, String)>,
    pub(super) body: Value,
}

impl Asked {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// What a tool is called with.
    pub(super) fn arguments(&self) -> &Value {
        &self.body["params"]["arguments"]
    }
}

impl Server {
    /// Starts a server whose tools all do this.
    pub(super) fn start(
        tool: impl Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::guarded(|_| None, tool)
    }

    /// The same behind something that may refuse.
    pub(super) fn guarded(
        gate: Gate,
        tool: impl Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let book = Arc::new(Book::default());
        let (own, tool): (_, Arc<Tool>) = (Arc::clone(&book), Arc::new(tool));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(io::Result::ok) {
                if own.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let (book, tool) = (Arc::clone(&own), Arc::clone(&tool));
                let serve = move || {
                    // A peer that goes away is what ends a connection.
                    let _ = serve(&stream, &book, gate, &tool);
                };
                // Without a thread the connection is dropped, which the bar sees.
                let _ = std::thread::Builder::new().stack_size(256 << 10).spawn(serve);
            }
        });
        Ok(Self { port, book })
    }

    /// The `url` line of a table for it.
    pub(super) fn at(&self, path: &str) -> String {
        format!("url = \"http://127.0.0.1:{}/{path}\"\n", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.book.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let head: Vec<_> = lines.iter().skip(1).filter_map(header).collect();
    let length = head.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Asked { method, path, head, body: serde_json::from_slice(&body).unwrap_or_default() })
}

fn serve(stream: &TcpStream, book: &Arc<Book>, gate: Gate, tool: &Arc<Tool>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let asked = read(&mut reader)?;
        if let Some((status, body)) = gate(&asked) {
            whole(stream, status, "", &body)?;
            continue;
        }
        let session = asked
            .header("mcp-session-id")
            .map(str::to_owned)
            .or_else(|| asked.path.split_once("session_id=").map(|(_, session)| session.to_owned()));
        let session = session.and_then(|id| locked(&book.sessions).get(&id).cloned());
        let over_sse = asked.path.starts_with("/sse");
        match asked.method.as_str() {
            "GET" if over_sse => return listen(stream, book),
            "POST" => {}
            "DELETE" => {
                whole(stream, 200, "", "")?;
                continue;
            }
            _ => {
                whole(stream, 405, "", "")?;
                continue;
            }
        }
        if over_sse && session.is_none() {
            whole(stream, if asked.path.contains('?') { 404 } else { 405 }, "", "")?;
            continue;
        }
        if asked.body.get("method").is_none() || asked.body.get("id").is_none() {
            noted(&asked, book, session.as_deref());
            whole(stream, 202, "", "")?;
            continue;
        }
        if over_sse {
            whole(stream, 202, "", "")?;
            let (book, tool) = (Arc::clone(book), Arc::clone(tool));
            let answer = move || {
                let mut exchange = Exchange::of(&asked, &book, session, None);
                // The stream may be gone; then there is nobody to tell.
                let _ = exchange.serve(&*tool);
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn(answer)?;
            continue;
        }
        let mut exchange = Exchange::of(&asked, book, session, Some(stream));
        exchange.serve(&**tool)?;
        if exchange.is_stream {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A notification, or what the client answers.
fn noted(asked: &Asked, book: &Book, session: Option<&Session>) {
    if asked.body["method"] == "notifications/cancelled" {
        book.cancelled.fetch_add(1, Ordering::SeqCst);
    }
    if let Some(session) = session.filter(|_| asked.body.get("method").is_none()) {
        locked(&session.replies).push(asked.body.clone());
        session.replied.notify_all();
    }
}

fn begin(book: &Book) -> (String, Arc<Session>) {
    let id = format!("s{}", book.opened.fetch_add(1, Ordering::SeqCst));
    let session = Arc::new(Session::default());
    locked(&book.sessions).insert(id.clone(), Arc::clone(&session));
    (id, session)
}

/// Holds an HTTP+SSE stream open until the client closes it.
fn listen(mut stream: &TcpStream, book: &Book) -> io::Result<()> {
    let (id, session) = begin(book);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    stream.write_all(format!("event: endpoint\ndata: /sse?session_id={id}\n\n").as_bytes())?;
    *locked(&session.stream) = Some(stream.try_clone()?);
    io::copy(&mut stream, &mut io::sink())?;
    locked(&book.sessions).remove(&id);
    Ok(())
}

fn whole(mut stream: &TcpStream, status: u16, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} S\r\ncontent-type: application/json\r\n{headers}");
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())
}

/// A request that is being answered.
pub(super) struct Exchange<'a> {
    asked: &'a Asked,
    book: &'a Book,
    session: Option<Arc<Session>>,
    /// The connection of the request; without, the answer goes over the session's stream.
    own: Option<&'a TcpStream>,
    is_stream: bool,
}

impl<'a> Exchange<'a> {
    fn of(
        asked: &'a Asked,
        book: &'a Book,
        session: Option<Arc<Session>>,
        own: Option<&'a TcpStream>,
    ) -> Self {
        Self { asked, book, session, own, is_stream: false }
    }

    fn serve(&mut self, tool: &Tool) -> io::Result<()> {
        match self.asked.body["method"].as_str().unwrap_or_default() {
            "initialize" => {
                let session = self.own.map(|_| begin(self.book).0);
                let headers = session.map(|id| format!("mcp-session-id: {id}\r\n")).unwrap_or_default();
                self.answer(&headers, &hello(&self.asked.body))
            }
            "tools/list" => self.answer("", &tools()),
            "tools/call" => {
                if let Some(nonce) = self.asked.arguments()["nonce"].as_str() {
                    *locked(&self.book.runs).entry(nonce.to_owned()).or_default() += 1;
                }
                tool(self)
            }
            _ => self.answer("", &json!({})),
        }
    }

    /// What it was asked.
    pub(super) fn asked(&self) -> &'a Asked {
        self.asked
    }

    /// Answers with a text.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.answer("", &json!({ "content": [{ "type": "text", "text": text }] }))
    }

    fn answer(&mut self, headers: &str, result: &Value) -> io::Result<()> {
        let response = json!({ "jsonrpc": "2.0", "id": self.asked.body["id"], "result": result });
        match self.own.filter(|_| !self.is_stream) {
            Some(stream) => whole(stream, 200, headers, &response.to_string()),
            None => self.push(&response),
        }
    }

    /// Answers with a status and a body of its own.
    pub(super) fn refuse(&mut self, status: u16, body: &Value) -> io::Result<()> {
        self.own.map_or(Ok(()), |stream| whole(stream, status, "", &body.to_string()))
    }

    /// Writes bytes that are no answer.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.own.map_or(Ok(()), |mut stream| stream.write_all(bytes))
    }

    /// Sends a message before the answer, which makes the answer an event stream.
    fn push(&mut self, message: &Value) -> io::Result<()> {
        let event = format!("event: message\ndata: {message}\n\n");
        if let Some(mut stream) = self.own {
            if !self.is_stream {
                self.is_stream = true;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                stream.write_all(head.as_bytes())?;
            }
            return stream.write_all(event.as_bytes());
        }
        let session = self.session.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        locked(&session.stream).as_mut().map_or(Ok(()), |stream| stream.write_all(event.as_bytes()))
    }

    /// Tells of progress.
    pub(super) fn progress(&mut self, done: u64) -> io::Result<()> {
        let token = self.asked.body["params"]["_meta"]["progressToken"].clone();
        let params = json!({ "progressToken": token, "progress": done });
        self.push(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }))
    }

    /// Asks the client something, and waits for what it answers.
    pub(super) fn ask(&mut self, method: &str, params: &Value) -> io::Result<Option<Value>> {
        let id = format!("ask-{}", self.asked.body["id"]);
        self.push(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        let session = self.session.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let end = Instant::now() + Duration::from_secs(60);
        let mut replies = locked(&session.replies);
        loop {
            if let Some(at) = replies.iter().position(|reply| reply["id"] == id.as_str()) {
                return Ok(Some(replies.remove(at)));
            }
            if Instant::now() > end || self.book.stopping.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let waited = session.replied.wait_timeout(replies, Duration::from_millis(200));
            replies = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(replies, _)| replies);
        }
    }

    /// Waits, at most until the server is dropped.
    pub(super) fn wait(&self, long: Duration) {
        let end = Instant::now() + long;
        while !self.book.stopping.load(Ordering::SeqCst) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(200)));
        }
    }
}

/// The result of `initialize`.
pub(super) fn hello(asked: &Value) -> Value {
    json!({
        "protocolVersion": asked["params"]["protocolVersion"], "capabilities": { "tools": {} },
        "serverInfo": { "name": "raw", "version": "1" },
    })
}

/// The result of `tools/list`: one tool, not marked as read-only, so nothing of it may be repeated.
pub(super) fn tools() -> Value {
    json!({ "tools": [{ "name": "work", "inputSchema": { "type": "object" } }] })
}
