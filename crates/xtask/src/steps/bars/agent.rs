//! Raw agents below every SDK: connections, requests written byte by byte, and sessions over both transports.
//!
//! The subtle thing: every read and every dial ends with the time of the bar that runs (`clock.rs`), so a gateway that
//! does not answer fails its bar and holds up no other.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::clock;

/// What most SDKs accept.
pub(super) const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// All values of a header.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON-RPC response in the body, be it JSON or an event stream.
    pub(super) fn message(&self) -> Result<Value> {
        let text = self.text();
        let events = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        let response = |text: &str| {
            let value: Value = serde_json::from_str(text).ok()?;
            (value["result"].is_object() || value["error"].is_object()).then_some(value)
        };
        let found = std::iter::once(text.trim()).chain(events).find_map(response);
        found.with_context(|| format!("no JSON-RPC response in status {}: {text:.200}", self.status))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    /// When it is waited for no longer, where that is before the end of the bar.
    until: Option<Instant>,
}

impl Connection {
    /// Dials a port of this machine.
    pub(super) fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), clock::left()?)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), until: None })
    }

    /// Waits for answers until then, and no longer.
    pub(super) fn until(mut self, until: Instant) -> Self {
        self.until = Some(until);
        self
    }

    fn wait_to_read(&self) -> Result<()> {
        let mut left = clock::left()?;
        if let Some(until) = self.until {
            left = left.min(until.saturating_duration_since(Instant::now()));
        }
        if left.is_zero() {
            bail!("no answer in time");
        }
        Ok(self.stream.get_ref().set_read_timeout(Some(left))?)
    }

    /// Writes a request, or a part of one.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_ref().set_write_timeout(Some(clock::left()?))?;
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// Another handle to write with.
    pub(super) fn writer(&self) -> Result<TcpStream> {
        Ok(self.stream.get_ref().try_clone()?)
    }

    /// Closes our side; answers can still be read.
    pub(super) fn half_close(&self) -> Result<()> {
        Ok(self.stream.get_ref().shutdown(Shutdown::Write)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.wait_to_read()?;
        if self.stream.read_until(b'\n', &mut line)? == 0 {
            bail!("the connection was closed without an answer");
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// The head of the next answer that is final.
    pub(super) fn head(&mut self) -> Result<Answer> {
        loop {
            let mut head = self.line()?;
            let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
            let status: u16 = status.with_context(|| format!("no status line: {head:?}"))?;
            loop {
                let line = self.line()?;
                if line.is_empty() {
                    break;
                }
                head = head + "\n" + &line;
            }
            if status >= 200 {
                return Ok(Answer { status, head, body: Vec::new() });
            }
        }
    }

    /// The next part of a body, as it is framed; empty at its end.
    pub(super) fn piece(&mut self, head: &Answer) -> Result<Vec<u8>> {
        self.wait_to_read()?;
        if head.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            let size = self.line()?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
            let mut piece = vec![0; size];
            self.stream.read_exact(&mut piece)?;
            self.line()?;
            return Ok(piece);
        }
        if let Some(length) = head.header("content-length") {
            let mut piece = vec![0; length.parse::<usize>()?.saturating_sub(head.body.len())];
            self.stream.read_exact(&mut piece)?;
            return Ok(piece);
        }
        if head.status == 204 || head.status == 202 {
            return Ok(Vec::new());
        }
        let piece = self.stream.fill_buf()?.to_vec();
        self.stream.consume(piece.len());
        Ok(piece)
    }

    /// The next answer with its whole body.
    pub(super) fn answer(&mut self) -> Result<Answer> {
        let mut answer = self.head()?;
        loop {
            let piece = self.piece(&answer)?;
            if piece.is_empty() {
                return Ok(answer);
            }
            answer.body.extend(piece);
        }
    }
}

/// An event stream that is read event by event.
#[derive(Debug)]
pub(super) struct Events {
    connection: Connection,
    head: Answer,
    text: String,
}

impl Events {
    /// Reads the head of an answer; its body is the stream.
    pub(super) fn of(mut connection: Connection) -> Result<Self> {
        let head = connection.head()?;
        if head.status != 200 {
            bail!("the event stream was refused with {}", head.status);
        }
        Ok(Self { connection, head, text: String::new() })
    }

    /// The next event that has a name or data: both.
    pub(super) fn next(&mut self) -> Result<(String, String)> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let of = |field: &str| -> Vec<&str> {
                    event.lines().filter_map(|line| line.strip_prefix(field)).map(str::trim).collect()
                };
                let (name, data) = (of("event:"), of("data:"));
                if !(name.is_empty() && data.is_empty()) {
                    return Ok((name.concat(), data.join("\n")));
                }
            }
            let piece = self.connection.piece(&self.head)?;
            if piece.is_empty() {
                bail!("the event stream ended");
            }
            self.text.push_str(&String::from_utf8_lossy(&piece).replace('\r', ""));
        }
    }

    /// The next JSON-RPC message.
    pub(super) fn message(&mut self) -> Result<Value> {
        loop {
            let (_, data) = self.next()?;
            if let Ok(message @ Value::Object(_)) = serde_json::from_str(&data) {
                return Ok(message);
            }
        }
    }
}

/// One request, as bytes.
pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if method == "POST" {
        text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    (text + "\r\n" + body).into_bytes()
}

/// Which of the gateway's transports an agent uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Streamable,
    Sse,
}

/// An agent with a session.
#[derive(Debug)]
pub(super) struct Agent {
    port: u16,
    backend: String,
    /// Where it posts to.
    pub(super) path: String,
    /// What its requests carry besides: `authorization`, the session, what it accepts.
    headers: Vec<(String, String)>,
    /// The stream of an HTTP+SSE session.
    pub(super) events: Option<Events>,
    next_id: u64,
}

/// A call of a tool.
pub(super) fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments, "_meta": { "progressToken": id } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// The first request of a session.
pub(super) fn hello(capabilities: &Value) -> Value {
    let params = json!({
        "protocolVersion": "2025-06-18", "capabilities": capabilities,
        "clientInfo": { "name": "bars", "version": "1" },
    });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })
}

/// The message that ends the handshake.
pub(super) fn initialized() -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })
}

impl Agent {
    /// An agent that can be asked nothing and brings no headers.
    pub(super) fn open(wire: Wire, port: u16, backend: &str) -> Result<Self> {
        Self::open_with(wire, port, backend, &[], &json!({}))
    }

    /// An agent with headers and capabilities of its own, once it is ready.
    pub(super) fn open_with(
        wire: Wire,
        port: u16,
        backend: &str,
        headers: &[(&str, &str)],
        capabilities: &Value,
    ) -> Result<Self> {
        let own = headers.iter().chain(&[BOTH]);
        let headers = own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let path = format!("/{backend}/mcp");
        let mut agent = Self { port, backend: backend.to_owned(), path, headers, events: None, next_id: 0 };
        if wire == Wire::Sse {
            agent.listen(&format!("/{backend}/sse"))?;
        }
        let mut connection = Connection::open(port)?;
        connection.send(&agent.post(&hello(capabilities)))?;
        let answer = connection.answer()?;
        let response = agent.response(&answer)?;
        if !response["result"].is_object() {
            bail!("initialize was answered with status {}: {response}", answer.status);
        }
        if let Some(session) = answer.header("mcp-session-id") {
            agent.headers.push(("mcp-session-id".to_owned(), session.to_owned()));
        }
        connection.send(&agent.post(&initialized()))?;
        connection.answer()?;
        Ok(agent)
    }

    /// Opens the stream of an HTTP+SSE session, and learns where to post to.
    fn listen(&mut self, path: &str) -> Result<()> {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut connection = Connection::open(self.port)?;
        connection.send(&request("GET", path, &headers, ""))?;
        let mut events = Events::of(connection)?;
        loop {
            let (name, data) = events.next()?;
            if name == "endpoint" {
                self.path = if data.starts_with('?') { format!("/{}/sse{data}", self.backend) } else { data };
                break;
            }
        }
        self.events = Some(events);
        Ok(())
    }

    /// Opens the stream of its HTTP+SSE session anew, as browsers do: with the id of the last event, its session's.
    pub(super) fn come_back(&mut self) -> Result<()> {
        let session = self.path.split_once("session_id=").map(|(_, id)| id.to_owned()).unwrap_or_default();
        self.headers.push(("last-event-id".to_owned(), session));
        let outcome = self.listen(&format!("/{}/sse", self.backend));
        self.headers.pop();
        outcome
    }

    /// A POST of a message, with everything the session needs.
    pub(super) fn post(&self, message: &Value) -> Vec<u8> {
        self.post_as(message, None)
    }

    /// The same with another `authorization` than its own; `Some("")` is none.
    pub(super) fn post_as(&self, message: &Value, authorization: Option<&str>) -> Vec<u8> {
        let kept = |name: &str| authorization.is_none() || name != "authorization";
        let own = self.headers.iter().filter(|(name, _)| kept(name));
        let mut headers: Vec<(&str, &str)> =
            own.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.extend(authorization.filter(|value| !value.is_empty()).map(|value| ("authorization", value)));
        request("POST", &self.path, &headers, &message.to_string())
    }

    /// An id that it has not used.
    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Dials the gateway.
    pub(super) fn connect(&self) -> Result<Connection> {
        Connection::open(self.port)
    }

    /// The response to what was posted: in its answer, or on the session's stream.
    fn response(&mut self, answer: &Answer) -> Result<Value> {
        let Some(events) = self.events.as_mut().filter(|_| answer.status == 202) else {
            // What is no JSON-RPC is shown as it came.
            return Ok(answer.message().unwrap_or_else(|_| json!({ "text": answer.text() })));
        };
        loop {
            let message = events.message()?;
            if message.get("method").is_none() {
                return Ok(message);
            }
        }
    }

    /// Calls a tool over a new connection: status and response.
    pub(super) fn call(&mut self, tool: &str, arguments: &Value) -> Result<(u16, Value)> {
        self.call_as(tool, arguments, None)
    }

    /// The same with another `authorization`.
    pub(super) fn call_as(
        &mut self,
        tool: &str,
        arguments: &Value,
        token: Option<&str>,
    ) -> Result<(u16, Value)> {
        let message = call(self.id(), tool, arguments);
        let mut connection = self.connect()?;
        connection.send(&self.post_as(&message, token))?;
        let answer = connection.answer()?;
        let response = self.response(&answer)?;
        Ok((answer.status, response))
    }
}

/// The text of a tool's result.
pub(super) fn text_of(response: &Value) -> &str {
    response["result"]["content"][0]["text"].as_str().unwrap_or_default()
}
