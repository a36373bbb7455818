//! What an agent is: where it connects, what it declares, how it numbers its requests, and how it fails.
//!
//! The subtle thing: agents number from 0 by default, all of them: ids that collide between agents are the rule
//! in the field and the first thing a gateway must survive.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// The wire an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP+SSE of 2024-11-05.
    Sse,
    /// Streamable HTTP.
    Http,
}

/// How an agent connects and what it says of itself.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// URL of the endpoint, `http://host:port/path`.
    pub url: String,
    /// The wire.
    pub transport: Transport,
    /// Client capabilities declared in `initialize`. Default `{}`.
    pub capabilities: Value,
    /// Revision proposed in `initialize`. Default `2025-11-25`.
    pub revision: String,
    /// `clientInfo.name`. Default `testkit-agent`.
    pub name: String,
    /// Longest wait for any one answer. Default 30 s.
    pub timeout: Duration,
    /// POST connections at once; more requests wait for one. Default 64.
    pub connections: usize,
    /// Open the GET stream of Streamable HTTP after `initialize`. Default false.
    pub listen: bool,
    /// Answer requests of the server, pings included. Default true.
    pub answers: bool,
    /// Headers added to every request. Default none.
    pub headers: Vec<(String, String)>,
}

impl AgentConfig {
    /// An agent with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, transport: Transport) -> Self {
        Self {
            url: url.into(),
            transport,
            capabilities: json!({}),
            revision: "2025-11-25".into(),
            name: "testkit-agent".into(),
            timeout: Duration::from_secs(30),
            connections: 64,
            listen: false,
            answers: true,
            headers: Vec::new(),
        }
    }

    /// An HTTP+SSE agent with the defaults.
    #[must_use]
    pub fn sse(url: impl Into<String>) -> Self {
        Self::new(url, Transport::Sse)
    }

    /// A Streamable HTTP agent with the defaults.
    #[must_use]
    pub fn http(url: impl Into<String>) -> Self {
        Self::new(url, Transport::Http)
    }

    /// The same with these capabilities.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The same with this timeout.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with its GET stream open.
    #[must_use]
    pub fn listening(mut self) -> Self {
        self.listen = true;
        self
    }
}

/// Where an agent's request ids come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// Integers from this one on.
    Number(u64),
    /// Strings: this prefix and an integer from this one on.
    Text(String, u64),
    /// Odd ones integers, even ones strings of the same integers: `1`, `"2"`, `3`, ...
    Mixed(u64),
}

impl Ids {
    /// The next id as raw JSON.
    pub(crate) fn next(&mut self) -> String {
        let (Self::Number(n) | Self::Text(_, n) | Self::Mixed(n)) = self;
        let this = *n;
        *n += 1;
        match self {
            Self::Number(_) => this.to_string(),
            Self::Text(prefix, _) => Value::from(format!("{prefix}{this}")).to_string(),
            Self::Mixed(_) if this % 2 == 1 => this.to_string(),
            Self::Mixed(_) => format!("\"{this}\""),
        }
    }
}

/// How an exchange of an agent ends when it does not end well.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentError {
    /// A status other than 2xx.
    Http {
        /// The status.
        status: u16,
        /// The body as text.
        body: String,
    },
    /// A JSON-RPC error.
    Rpc {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
        /// Its data, `null` when absent.
        data: Value,
    },
    /// No answer in time.
    Timeout,
    /// The connection or stream ended first, or could not be had; with what is known of the reason.
    Closed(String),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { status, body } => write!(f, "http status {status}: {body}"),
            Self::Rpc { code, message, data } => write!(f, "rpc error {code}: {message} ({data})"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Closed(why) => write!(f, "closed: {why}"),
        }
    }
}

impl std::error::Error for AgentError {}
