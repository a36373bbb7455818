//! One agent: its handshake, its calls, and the proof that each answer is the answer to its call.
//!
//! All agents count their request ids from 0, so a gateway that mixes them up cannot be right by luck; the nonce in
//! the arguments tells whose answer came back.

use std::{io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use mcpool_wire::{Envelope, Kind};

use super::{
    check::{self, Failure, LARGE, Work, check},
    conn::Conn,
    sse::{Event, Events},
};

/// What every call of 2026-07-28 says of its caller, as the first member of its params.
const ENVELOPE: &str = concat!(
    r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientCapabilities":{},"#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}},"#
);

/// How an agent talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Streamable HTTP.
    Http,
    /// HTTP+SSE.
    Sse,
    /// Streamable HTTP of 2026-07-28: no handshake and no session, every call says who makes it.
    Modern,
}

impl Front {
    /// The short name in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sse => "sse",
            Self::Modern => "modern",
        }
    }

    fn revision(self) -> &'static str {
        match self {
            Self::Http => "2025-11-25",
            Self::Sse => "2024-11-05",
            Self::Modern => "2026-07-28",
        }
    }
}

/// Whom agents call.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its address.
    pub addr: SocketAddr,
    /// Path of the endpoint (Streamable HTTP) or of the stream (HTTP+SSE).
    pub path: String,
    /// How to talk to it.
    pub front: Front,
}

/// An agent with a session, where there are sessions.
#[derive(Debug)]
pub struct Agent {
    target: Target,
    /// Carries the POSTs; without one the next call connects.
    posts: Option<Conn>,
    /// The agent's own event stream: always for HTTP+SSE, on demand for Streamable HTTP.
    stream: Option<(Conn, Events)>,
    /// The head of its POSTs, up to what differs from call to call.
    head: String,
    session: Option<String>,
    key: u64,
    sequence: u64,
    request: Vec<u8>,
    body: BytesMut,
}

impl Agent {
    /// Opens a session: handshake included.
    ///
    /// # Errors
    /// [`Failure`], at the first step that is not answered as it should be.
    pub async fn open(target: &Target, key: u64) -> Result<Self, Failure> {
        let mut agent = Self {
            target: target.clone(),
            posts: None,
            stream: None,
            head: post_head(target, &target.path, None),
            session: None,
            key,
            sequence: 0,
            request: Vec::new(),
            body: BytesMut::new(),
        };
        if target.front == Front::Sse {
            let (conn, events, path) = open_sse(target).await?;
            agent.stream = Some((conn, events));
            agent.head = post_head(target, &path, None);
        }
        if target.front != Front::Modern {
            agent.initialize().await?;
        }
        Ok(agent)
    }

    /// Makes one call and checks its answer.
    ///
    /// # Errors
    /// [`Failure`]; the agent's connections are of no use afterwards.
    pub async fn call(&mut self, work: Work) -> Result<(), Failure> {
        let id = self.sequence;
        self.sequence += 1;
        let nonce = format!("{:016x}", check::nonce(self.key, id));
        let envelope = if self.target.front == Front::Modern { ENVELOPE } else { "" };
        let (tool, message) = match work {
            Work::Echo => (
                "echo",
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{{envelope}"name":"echo","arguments":{{"text":"{nonce}"}}}}}}"#
                ),
            ),
            Work::Big(size) => (
                "big",
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{{envelope}"name":"big","arguments":{{"bytes":{size}}}}}}}"#
                ),
            ),
        };
        let answer = self.request(&message, id, tool).await?;
        check(&answer, id, work, &nonce)
    }

    /// Opens the stream a Streamable HTTP client keeps beside its POSTs.
    ///
    /// # Errors
    /// See [`Agent::open`].
    pub async fn listen(&mut self) -> Result<(), Failure> {
        if self.target.front != Front::Http {
            return Ok(());
        }
        let mut conn = Conn::connect(self.target.addr).await?;
        let session = self.session.as_deref().unwrap_or_default();
        conn.send(get_head(&self.target, Some(session)).as_bytes()).await?;
        let head = conn.head().await?;
        if head.status != 200 || !head.is_event_stream {
            return Err(Failure::Status(head.status, "the GET of a stream"));
        }
        self.stream = Some((conn, Events::new(head.framing)));
        Ok(())
    }

    /// Closes the connection that carries POSTs; the stream stays.
    pub fn rest(&mut self) {
        self.posts = None;
    }

    /// Ends the session as a polite client does.
    ///
    /// # Errors
    /// See [`Agent::call`].
    pub async fn close(mut self) -> Result<(), Failure> {
        let (Front::Http, Some(session)) = (self.target.front, self.session.take()) else { return Ok(()) };
        let request = format!(
            "DELETE {} HTTP/1.1\r\nhost: {}\r\nmcp-session-id: {session}\r\nmcp-protocol-version: {}\r\n\r\n",
            self.target.path,
            self.target.addr,
            self.target.front.revision()
        );
        let posts = posts(&mut self.posts, self.target.addr).await?;
        posts.send(request.as_bytes()).await?;
        let mut head = posts.head().await?;
        while posts.body(&mut head.framing, &mut self.body).await? {}
        match head.status {
            200..=204 => Ok(()),
            status => Err(Failure::Status(status, "DELETE")),
        }
    }

    async fn initialize(&mut self) -> Result<(), Failure> {
        let hello = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"bench","version":"1"}}}}}}"#,
            self.target.front.revision()
        );
        let id = self.sequence;
        self.sequence += 1;
        let answer = self.request(&hello, id, "").await?;
        check(&answer, id, Work::Big(2), "")?;
        if let Some(session) = &self.session {
            self.head = post_head(&self.target, &self.target.path, Some(session));
        }
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let status = self.post(initialized, "").await?.status;
        if !matches!(status, 202 | 204) {
            return Err(Failure::Status(status, "notifications/initialized"));
        }
        Ok(())
    }

    /// Sends a request and waits for its answer, wherever it comes.
    async fn request(&mut self, message: &str, id: u64, tool: &str) -> Result<Bytes, Failure> {
        match self.target.front {
            Front::Http | Front::Modern => {
                let posted = self.post(message, tool).await?;
                if posted.status != 200 {
                    return Err(Failure::Status(posted.status, "a request"));
                }
                posted.answer.ok_or_else(|| Failure::Wrong("the answer is empty".into()))
            }
            Front::Sse => {
                let Some((conn, mut events)) = self.stream.take() else {
                    return Err(Failure::Wrong("the agent has no stream".into()));
                };
                let mut conn = conn;
                let answer = {
                    let posted = async {
                        match self.post(message, tool).await?.status {
                            200 | 202 | 204 => Ok(()),
                            status => Err(Failure::Status(status, "a request")),
                        }
                    };
                    // Together: the answer may overtake the acknowledgement, and a refused POST has no answer.
                    tokio::try_join!(next_answer(&mut conn, &mut events, id), posted)?.0
                };
                self.stream = Some((conn, events));
                Ok(answer)
            }
        }
    }

    async fn post(&mut self, message: &str, tool: &str) -> Result<Posted, Failure> {
        use std::io::Write as _;
        self.request.clear();
        self.request.extend_from_slice(self.head.as_bytes());
        if self.target.front == Front::Modern {
            write!(self.request, "mcp-name: {tool}\r\n")?;
        }
        write!(self.request, "content-length: {}\r\n\r\n{message}", message.len())?;
        let conn = posts(&mut self.posts, self.target.addr).await?;
        conn.send(&self.request).await?;
        let mut head = conn.head().await?;
        if head.session.is_some() && self.session.is_none() && head.status == 200 {
            self.session = head.session.take();
        }
        self.body.clear();
        let answer = if head.is_event_stream {
            let mut events = Events::new(head.framing);
            let mut last = None;
            while let Some(event) = events.next(conn).await? {
                last = Some(event.data);
            }
            last
        } else {
            while conn.body(&mut head.framing, &mut self.body).await? {}
            Some(self.body.split().freeze()).filter(|body| !body.is_empty())
        };
        Ok(Posted { status: head.status, answer })
    }
}

struct Posted {
    status: u16,
    answer: Option<Bytes>,
}

async fn posts(slot: &mut Option<Conn>, addr: SocketAddr) -> io::Result<&mut Conn> {
    let conn = match slot.take() {
        Some(conn) => conn,
        None => Conn::connect(addr).await?,
    };
    Ok(slot.insert(conn))
}

async fn open_sse(target: &Target) -> Result<(Conn, Events, String), Failure> {
    let mut conn = Conn::connect(target.addr).await?;
    conn.send(get_head(target, None).as_bytes()).await?;
    let head = conn.head().await?;
    if head.status != 200 || !head.is_event_stream {
        return Err(Failure::Status(head.status, "the GET of a stream"));
    }
    let mut events = Events::new(head.framing);
    match events.next(&mut conn).await? {
        Some(Event { name, data }) if name == "endpoint" => {
            let path = endpoint(&target.path, &String::from_utf8_lossy(&data));
            Ok((conn, events, path))
        }
        other => Err(Failure::Wrong(format!("{other:?} instead of the endpoint event"))),
    }
}

/// The path an `endpoint` event means, seen from the path of the stream.
fn endpoint(stream_path: &str, data: &str) -> String {
    let data = match data.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => data,
    };
    match data.as_bytes().first() {
        Some(b'/') => data.to_owned(),
        Some(b'?') => format!("{}{data}", stream_path.split('?').next().unwrap_or_default()),
        _ => {
            let folder = stream_path.rfind('/').map_or("/", |at| &stream_path[..=at]);
            format!("{folder}{data}")
        }
    }
}

async fn next_answer(conn: &mut Conn, events: &mut Events, id: u64) -> Result<Bytes, Failure> {
    loop {
        let Some(event) = events.next(conn).await? else {
            return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
        };
        if !event.name.is_empty() {
            continue;
        }
        if event.data.len() >= LARGE {
            return Ok(event.data);
        }
        match Envelope::parse(&event.data) {
            // Notifications and pings of the server are none of our business.
            Ok(envelope) if matches!(envelope.kind, Kind::Request | Kind::Notification) => {}
            Ok(_) => return Ok(event.data),
            Err(error) => return Err(Failure::Wrong(format!("to call {id}: {error}"))),
        }
    }
}

fn post_head(target: &Target, path: &str, session: Option<&str>) -> String {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n",
        target.addr
    );
    if let Some(session) = session {
        head.push_str(&session_headers(target.front, session));
    }
    if target.front == Front::Modern {
        head.push_str("mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\n");
    }
    head
}

fn get_head(target: &Target, session: Option<&str>) -> String {
    let session = session.map(|session| session_headers(target.front, session)).unwrap_or_default();
    format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{session}\r\n",
        target.path, target.addr
    )
}

fn session_headers(front: Front, session: &str) -> String {
    format!("mcp-session-id: {session}\r\nmcp-protocol-version: {}\r\n", front.revision())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_resolved_against_its_stream() {
        for (data, expected) in [
            ("/messages/?session_id=1", "/messages/?session_id=1"),
            ("?session=1", "/b/sse?session=1"),
            ("http://127.0.0.1:1/m?x=1", "/m?x=1"),
            ("messages?x=1", "/b/messages?x=1"),
        ] {
            assert_eq!(endpoint("/b/sse", data), expected);
        }
    }
}
