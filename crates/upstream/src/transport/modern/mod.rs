//! The modern era, without handshake and session (PROTOCOL.md 4); for the rest of the crate a session without an id.
//!
//! Sessions write legacy messages. Here each request gets its envelope and headers, each result loses modern fields,
//! and a required input becomes a server request, with whose response the request is sent again. Nothing lasts
//! upstream: subscriptions and log level are stored here, and sent with each request and with the one notification
//! stream. A modern request passes unchanged.
//!
//! An exchange is one boxed future without a task: it runs when its caller polls it. Dropping it closes its connection,
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

use self::{input_requests::InputRequests, subscription_filter::SubscriptionFilter, tools::Tools};
use super::{
    ConnectRequest, Exchange, IDS, Inbound, Opened, Outbound, Transport,
    headers::Headers,
    http::{Http, HttpClient, Reply, Target},
    leaving::{Left, leaving},
};
use crate::error::SendError;

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Prefix of the headers an agent may send to a backend.
const PARAM: &str = "mcp-param-";

/// First id of this transport's own requests: above the session's ids. There are as many again, then they restart, all
/// within 30 bits.
const OWN_IDS: u64 = IDS;

/// Transport to a backend of the modern era.
pub(super) struct Modern {
    http: Arc<Http>,
    target: Arc<Target>,
}

/// The state shared by all requests of a session.
struct Session {
    http: Arc<HttpClient>,
    target: Arc<Target>,
    /// Headers of every POST.
    headers: Headers,
    declared: Declared,
    /// The least severe wanted log message.
    level: Mutex<Option<String>>,
    tools: Tools,
    inputs: InputRequests,
    filter: SubscriptionFilter,
    last_id: AtomicU64,
    /// True if the notification stream is open, or known to be unavailable for now.
    settled: watch::Sender<bool>,
}

/// The capabilities that a legacy handshake would declare, for every envelope.
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
        // Each request carries its revision.
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
        // There is no session to end.
        futures::future::ready(()).boxed()
    }
}

impl Session {
    /// A fresh id.
    fn next_id(&self) -> u64 {
        OWN_IDS + self.last_id.fetch_add(1, Ordering::Relaxed) % OWN_IDS
    }

    /// Marks the notification stream as open or unavailable.
    fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// The common headers of a request.
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
        // This era has no announcement of changed roots: they are requested when needed.
        if let Some(roots) = capabilities.get_mut("roots").and_then(Value::as_object_mut) {
            roots.remove("listChanged");
        }
        Self {
            capabilities_text: capabilities.to_string(),
            client_info: client_info.to_string(),
            capabilities,
        }
    }

    /// Checks that the agents declared this. An elicitation without a mode is a form.
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

/// The reason agents cannot be asked something.
enum Undeclared {
    /// There is no capability for it.
    Unknown,
    /// The capability is not declared.
    Capability(&'static str),
    /// The mode is not declared.
    Mode,
}

/// The headers of an agent that may be forwarded.
fn params_of(headers: &Forwarded) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
    headers.iter().filter(|(name, _)| name.as_str().starts_with(PARAM)).cloned()
}
