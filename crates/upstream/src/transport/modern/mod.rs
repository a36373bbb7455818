//! The era without handshake and session (PROTOCOL.md 4), to the rest of the crate a session without an id.
//!
//! Whoever uses a session writes messages of the other era; here each request is given its envelope and headers, each
//! result loses what only this era knows, and what a result asks for becomes requests of the server, whose answers the
//! request is sent again with. Nothing of it lasts: what an agent subscribes to and the log level it wants are kept
//! here, and said by each request and by the one stream of news. A request that is written in this era already passes
//! as it is.
//!
//! An exchange is one boxed future and no task: it moves when its caller polls it. Dropping it closes its connection,
//! which is how this era cancels.

mod discover;
mod exchange;
mod generator;
mod input_requests;
mod listen;
mod lists;
mod request;
mod subscription_filter;
mod tools;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mcpool_wire::{
    Forwarded, Revision,
    modern::{Stamp, encode_header},
};
use serde_json::Value;
use tokio::sync::watch;

use self::{input_requests::Inputs, subscription_filter::Filter, tools::Tools};
use super::{
    ConnectRequest, Exchange, IDS, Inbound, Opened, Outbound, Transport,
    headers::Headers,
    http::{Http, HttpClient, Reply, Target},
    leaving::{Left, leaving},
};
use crate::error::SendError;

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// What an agent may say in headers to a backend.
const PARAM: &str = "mcp-param-";

/// Where the ids of this transport's own requests begin: above those of the session's book. As many again, and they
/// begin anew, still within 30 bits.
const OWN_IDS: u64 = IDS;

/// Reaches a backend that speaks the modern era.
pub(super) struct Modern {
    http: Arc<Http>,
    target: Arc<Target>,
}

/// What all requests for the same agents have in common.
struct Session {
    http: Arc<HttpClient>,
    target: Arc<Target>,
    /// What every POST carries.
    headers: Headers,
    declared: Declared,
    /// The least severe log message that is wanted.
    level: Mutex<Option<String>>,
    tools: Tools,
    inputs: Inputs,
    filter: Filter,
    last_id: AtomicU64,
    /// Whether the stream of news is open, or known not to be offered now.
    settled: watch::Sender<bool>,
}

/// What the handshake of the other era would have said of the agents, for every envelope.
struct Declared {
    capabilities: Value,
    capabilities_text: String,
    client_info: String,
}

struct Sender(Arc<Session>);

impl Modern {
    pub(super) fn new(http: Arc<Http>, target: Arc<Target>) -> Self {
        Self { http, target }
    }
}

impl Transport for Modern {
    fn connect(&self, request: ConnectRequest) -> BoxFuture<'static, Result<Opened, SendError>> {
        discover::open(
            self.http.client_without_cookies(&request.credential),
            Arc::clone(&self.target),
            request,
        )
        .boxed()
    }

    fn renew(&self) {
        self.http.renew();
    }
}

impl Outbound for Sender {
    fn agreed(&self, _: Revision) {
        // Every request says its revision itself.
    }

    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>> {
        futures::future::ready(Ok(listen::listen(Arc::clone(&self.0)))).boxed()
    }

    fn listening(&self) -> BoxFuture<'static, ()> {
        let mut settled = self.0.settled.subscribe();
        async move { drop(settled.wait_for(|settled| *settled).await) }.boxed()
    }

    fn send(&self, message: Bytes) -> Exchange {
        let session = Arc::clone(&self.0);
        leaving(|left| generator::told(|out| exchange::carry(session, message, left, out)))
    }

    fn tell(&self, message: Bytes) -> Exchange {
        let session = Arc::clone(&self.0);
        generator::told(|out| exchange::carry(session, message, Left::default(), out))
    }

    fn pass(&self, message: Bytes, headers: &Forwarded) -> Exchange {
        let (session, headers) = (Arc::clone(&self.0), Arc::clone(headers));
        leaving(|left| generator::told(|out| exchange::pass(session, message, headers, left, out)))
    }

    fn tells_leaving(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        // There is nothing to end.
        futures::future::ready(()).boxed()
    }
}

impl Session {
    /// An id nobody used before.
    fn next_id(&self) -> u64 {
        OWN_IDS + self.last_id.fetch_add(1, Ordering::Relaxed) % OWN_IDS
    }

    /// The stream of news is open, or not offered now.
    fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// What a request carries besides its own headers.
    fn headers(&self, method: &str, name: Option<&str>) -> HeaderMap {
        let mut headers = self.headers.next(&self.http).post.clone();
        headers.insert(METHOD, encode_header(method));
        if let Some(name) = name {
            headers.insert(NAME, encode_header(name));
        }
        headers
    }

    fn stamp<'a>(&'a self, log_level: Option<&'a str>) -> Stamp<'a> {
        let Declared { capabilities_text, client_info, .. } = &self.declared;
        Stamp { capabilities: capabilities_text, client_info, log_level, carried: None }
    }

    fn level(&self) -> Option<String> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_level(&self, level: Option<String>) {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = level;
    }

    async fn post(&self, headers: &HeaderMap, body: Bytes, left: &Left) -> Result<Reply, SendError> {
        self.http.send_telling(Method::POST, &self.target, headers, body, left).await
    }
}

impl Declared {
    /// Reads an `initialize` request.
    fn of(initialize: &[u8]) -> Self {
        let mut message: Value = serde_json::from_slice(initialize).unwrap_or_default();
        let mut taken = |key: &str| {
            let found = message.pointer_mut(&format!("/params/{key}")).map(Value::take);
            found.filter(Value::is_object).unwrap_or_else(|| Value::Object(serde_json::Map::new()))
        };
        let (mut capabilities, client_info) = (taken("capabilities"), taken("clientInfo"));
        // Nobody announces changes of its roots in this era: they are asked for when they are needed.
        if let Some(roots) = capabilities.get_mut("roots").and_then(Value::as_object_mut) {
            roots.remove("listChanged");
        }
        Self {
            capabilities_text: capabilities.to_string(),
            client_info: client_info.to_string(),
            capabilities,
        }
    }

    /// Whether the agents can be asked this. An elicitation without a word about its mode is a form.
    fn allows(&self, method: &str, params: &Value) -> Result<(), Undeclared> {
        let capability = match method {
            "elicitation/create" => "elicitation",
            "sampling/createMessage" => "sampling",
            "roots/list" => "roots",
            _ => return Err(Undeclared::Unknown),
        };
        let declared = self.capabilities.get(capability).filter(|value| !value.is_null());
        let Some(declared) = declared else { return Err(Undeclared::Capability(capability)) };
        let is_url = params.get("mode").and_then(Value::as_str) == Some("url");
        let (form, url) = (declared.get("form").is_some(), declared.get("url").is_some());
        match capability {
            "elicitation" if is_url && !url => Err(Undeclared::Mode),
            "elicitation" if !is_url && url && !form => Err(Undeclared::Mode),
            _ => Ok(()),
        }
    }
}

/// Why agents cannot be asked something.
enum Undeclared {
    /// Not by any capability there is.
    Unknown,
    /// They did not declare this one.
    Capability(&'static str),
    /// They can be asked, but not in this way.
    Mode,
}

/// What an agent says in headers, as far as it may.
fn params_of(headers: &Forwarded) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
    headers.iter().filter(|(name, _)| name.as_str().starts_with(PARAM)).cloned()
}
