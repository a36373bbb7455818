//! What a scripted backend does: its mounts, delays, dialect and deterministic faults.
//!
//! The subtle thing: every field except the mounts and the address is read anew for each request, so
//! [`crate::Server::tune`] changes a running server; nothing here is random.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The whole behaviour of one scripted backend. The default is a fast, correct server of both transports.
#[derive(Debug, Clone)]
pub struct Script {
    /// Where to listen; port 0 takes a free one. Default `127.0.0.1:0`.
    pub addr: SocketAddr,
    /// Path of the HTTP+SSE stream; `None` mounts no HTTP+SSE. Default `/sse`.
    pub sse_path: Option<String>,
    /// Path the `endpoint` event names. Default `/messages/`.
    pub messages_path: String,
    /// Text put in front of the path in the `endpoint` event, e.g. a foreign origin. Default empty.
    pub endpoint_prefix: String,
    /// Paths of Streamable HTTP; one of them may equal `sse_path` and then wins. Default `/mcp`.
    pub http_paths: Vec<String>,

    /// How long `initialize` takes; requests that come meanwhile are too early. Default zero.
    pub handshake_delay: Duration,
    /// How long every `tools/call` takes before the tool itself. Default zero.
    pub call_delay: Duration,
    /// Open sessions above which a new one is answered 503. Default 10,000.
    pub session_cap: usize,
    /// TCP connections served at once; more wait in the accept queue. Default 16,384.
    pub connection_cap: usize,
    /// An idle keep-alive connection is closed after this long. Default 75 s.
    pub connection_idle: Duration,
    /// Refuse requests before `notifications/initialized` with -32602, as Python does. Default false.
    pub strict_init: bool,
    /// Refuse a second `initialize` on a session (TypeScript) instead of answering it (Python). Default false.
    pub refuse_second_initialize: bool,
    /// Streamable HTTP without session ids: no GET, no DELETE, every request stands alone. Default false.
    pub no_session_id: bool,
    /// How a request POST of Streamable HTTP is answered. Default [`Answer::Auto`].
    pub answer: Answer,
    /// How an unknown session is refused on Streamable HTTP. Default [`Lost::NotFound`].
    pub lost: Lost,
    /// How request ids are told apart. Default [`IdDialect::Typed`].
    pub ids: IdDialect,
    /// Answer number ids as strings (a defect seen in the wild). Default false.
    pub string_ids_back: bool,
    /// Redirect (307, absolute `Location` from `Host`) a path with the other trailing-slash spelling. Default false:
    /// both spellings are served.
    pub redirect_slash: bool,
    /// Answer 406 unless `Accept` names what the transport needs. Default false.
    pub require_accept: bool,
    /// Serve the GET stream of Streamable HTTP; `false` answers 405. Default true.
    pub get_stream: bool,
    /// Ping the client and close its session when it stays silent. Default none.
    pub ping_killer: Option<PingKiller>,
    /// What a call does when it is cancelled. Default [`CancelAnswer::Error`].
    pub cancel_answer: CancelAnswer,
    /// Which stream server requests (`ask`) take on Streamable HTTP. Default [`Lane::Post`].
    pub ask_on: Lane,
    /// End a session's stream after this many messages on it. Default never.
    pub close_stream_after: Option<u64>,
    /// Hold every odd call until the next even one of its session was answered, 500 ms at most. Default false.
    pub out_of_order: bool,
    /// Interval of comment keep-alives on idle streams. Default none.
    pub keep_alive: Option<Duration>,
    /// Begin Streamable event streams with a priming event. Default none.
    pub prime: Option<Prime>,
    /// Write event streams in pieces of at most this many bytes. Default unlimited.
    pub chunk: Option<usize>,
    /// List `ask` only to clients that declared a capability it can use. Default false.
    pub list_by_capability: bool,
    /// Offer the tools that keep state (`set_state`, `reveal`, `toggle`, `store`, ...) and `block`. Default false.
    pub state_tools: bool,
    /// Acknowledge a POST of HTTP+SSE although nobody reads the stream (Python). Default false: the POST waits.
    pub no_backpressure: bool,
    /// Hand `notifications/initialized` on this long after its POST was acknowledged, as the Python HTTP+SSE server may.
    /// Default zero.
    pub handover_delay: Duration,
    /// A session belongs to the `Authorization` that opened it; any other is told the session is unknown. Default false.
    pub bind_credential: bool,
    /// A Streamable session without stream and calls for this long is forgotten. Default never.
    pub idle_expiry: Option<Duration>,
    /// Instances behind a balancer that goes by connection; each knows only the sessions it opened. Default 1.
    pub instances: u64,
    /// The first call of a Streamable client with roots waits this long for its GET stream, as in Playwright's server.
    /// Default zero.
    pub roots_wait: Duration,
    /// Answer 403 unless `Host` is exactly this. Default none.
    pub only_host: Option<String>,

    /// Version answered to `initialize`; `None` echoes a known one, else `2025-11-25`. Default none.
    pub protocol_version: Option<String>,
    /// Refuse (400) an `MCP-Protocol-Version` header other than `protocol_version`. Default false.
    pub strict_version: bool,
    /// How many of the last requests to remember; see [`crate::Server::take_recorded`]. Default 0.
    pub record: usize,
    /// `serverInfo.name`. Default `mcpool-testkit`.
    pub server_name: String,
    /// `serverInfo.version`. Default this package's version.
    pub server_version: String,
    /// Capabilities merged over the built-in ones; a `null` value removes one. Default empty.
    pub extra_capabilities: serde_json::Map<String, serde_json::Value>,
    /// `instructions` of the `initialize` result. Default none.
    pub instructions: Option<String>,
    /// Faults present from the start; see [`crate::Server::set_faults`]. Default none.
    pub faults: Vec<Fault>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            sse_path: Some("/sse".into()),
            messages_path: "/messages/".into(),
            endpoint_prefix: String::new(),
            http_paths: vec!["/mcp".into()],
            handshake_delay: Duration::ZERO,
            call_delay: Duration::ZERO,
            session_cap: 10_000,
            connection_cap: 16_384,
            connection_idle: Duration::from_secs(75),
            strict_init: false,
            refuse_second_initialize: false,
            no_session_id: false,
            answer: Answer::Auto,
            lost: Lost::NotFound,
            ids: IdDialect::Typed,
            string_ids_back: false,
            redirect_slash: false,
            require_accept: false,
            get_stream: true,
            ping_killer: None,
            cancel_answer: CancelAnswer::Error,
            ask_on: Lane::Post,
            close_stream_after: None,
            out_of_order: false,
            keep_alive: None,
            prime: None,
            chunk: None,
            list_by_capability: false,
            state_tools: false,
            no_backpressure: false,
            handover_delay: Duration::ZERO,
            bind_credential: false,
            idle_expiry: None,
            instances: 1,
            roots_wait: Duration::ZERO,
            only_host: None,
            protocol_version: None,
            strict_version: false,
            record: 0,
            server_name: "mcpool-testkit".into(),
            server_version: env!("CARGO_PKG_VERSION").into(),
            extra_capabilities: serde_json::Map::new(),
            instructions: None,
            faults: Vec::new(),
        }
    }
}

impl Script {
    /// The habits of the Python SDK: strict handshake, ids keyed by their text, event-stream answers, 307 and 406.
    #[must_use]
    pub fn python() -> Self {
        Self {
            strict_init: true,
            ids: IdDialect::Text,
            answer: Answer::Sse,
            ask_on: Lane::Get,
            redirect_slash: true,
            require_accept: true,
            keep_alive: Some(Duration::from_secs(15)),
            ..Self::default()
        }
    }

    /// The habits of the reference "everything" server: lost sessions are 400, cancelled calls stay unanswered.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            refuse_second_initialize: true,
            answer: Answer::Sse,
            lost: Lost::BadRequest,
            cancel_answer: CancelAnswer::Silent,
            require_accept: true,
            list_by_capability: true,
            ..Self::default()
        }
    }

    /// The habits of Playwright's server: pings that kill, and a first call that waits for the GET stream.
    #[must_use]
    pub fn playwright() -> Self {
        let ping = PingKiller { every: Duration::from_secs(3), within: Duration::from_secs(5) };
        Self {
            refuse_second_initialize: true,
            answer: Answer::Sse,
            cancel_answer: CancelAnswer::Silent,
            require_accept: true,
            ping_killer: Some(ping),
            roots_wait: Duration::from_secs(5),
            ..Self::default()
        }
    }

    /// The cold backend of the race tests: 200 ms per handshake, 8 sessions, refuses early requests.
    #[must_use]
    pub fn cold() -> Self {
        Self {
            handshake_delay: Duration::from_millis(200),
            session_cap: 8,
            strict_init: true,
            ..Self::default()
        }
    }
}

/// How a request POST of Streamable HTTP is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// JSON, unless the call may send messages before its answer.
    Auto,
    /// Always one JSON object; messages of the call go to the GET stream, or nowhere.
    Json,
    /// Always an event stream.
    Sse,
}

/// How an unknown session id is refused on Streamable HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// 404 "Session not found", as the specification wants and Python does.
    NotFound,
    /// 400 "Bad Request: No valid session ID provided", as the "everything" server does.
    BadRequest,
}

/// How request ids of one session are told apart, and what becomes of ids that are neither string nor integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdDialect {
    /// `7` is not `"7"`; odd ids are refused with 400 (TypeScript).
    Typed,
    /// `7` is `"7"`; odd ids are taken for notifications and never answered; what a call with the id `_GET_stream`
    /// says before its answer comes out of the GET stream (Python).
    Text,
}

/// What a call does when `notifications/cancelled` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// Stops and never answers; its POST stays open (TypeScript).
    Silent,
    /// Stops and answers error -32800 (Python).
    Error,
    /// Stops and ends its POST without a message (the specification).
    End,
    /// Runs to its end and answers as if nothing had happened.
    Ignore,
}

/// The stream a server request takes on Streamable HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The POST of the call that caused it.
    Post,
    /// The session's GET stream.
    Get,
}

/// Pings the client on its session stream; a silent client loses its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingKiller {
    /// Time between pings.
    pub every: Duration,
    /// Time a client has to answer one.
    pub within: Duration,
}

/// The priming event (`id`, `retry`, empty `data`) of 2025-11-25.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prime {
    /// Value of the `retry:` field, in milliseconds.
    pub retry_ms: u64,
}

/// One deterministic fault: what happens, where, and to which of the matching exchanges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The exchanges it applies to.
    pub at: Stage,
    /// What happens to them.
    pub kind: FaultKind,
    /// Applies to every n-th matching exchange; 1 is all of them, 0 counts as 1.
    pub every: u64,
    /// Applies at most this often; `None` has no end.
    pub times: Option<u64>,
}

impl Fault {
    /// A fault that hits every matching exchange.
    #[must_use]
    pub fn always(at: Stage, kind: FaultKind) -> Self {
        Self { at, kind, every: 1, times: None }
    }

    /// A fault that hits the next matching exchange only.
    #[must_use]
    pub fn once(at: Stage, kind: FaultKind) -> Self {
        Self { at, kind, every: 1, times: Some(1) }
    }

    /// A fault that hits every n-th matching exchange.
    #[must_use]
    pub fn every(n: u64, at: Stage, kind: FaultKind) -> Self {
        Self { at, kind, every: n, times: None }
    }
}

/// A step of the conversation a fault can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The TCP connection, right after accept.
    Connect,
    /// The `initialize` request.
    Initialize,
    /// The `notifications/initialized` message.
    Initialized,
    /// The GET that opens a stream, of either transport.
    Listen,
    /// A `tools/call`.
    Call,
    /// A `ping` from the client.
    Ping,
    /// Any other request.
    Other,
}

/// What a fault does. The first group refuses before anything is executed; the second executes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Accepts and sends not one byte of HTTP.
    Hang,
    /// Answers this HTTP status with this text.
    Status(u16, String),
    /// Closes the TCP connection without an answer.
    Reset,
    /// Answers this JSON-RPC error code and message.
    Rpc(i64, String),
    /// Waits, then behaves.
    Delay(Duration),
    /// Executes, acknowledges the POST (202, or the head of an event stream), and never answers.
    Silent,
    /// Executes, sends this many bytes of the answer (SSE framing included), then aborts the stream it was on.
    CutAt(usize),
    /// Executes and answers an empty 200; on HTTP+SSE the same as `Silent`.
    Empty,
    /// Executes once and answers twice, on an event stream.
    Double,
    /// Executes and answers under an id nobody used.
    ForeignId,
    /// Executes, answers, and then ends the session's own stream.
    CloseStream,
}
