//! From a URL to a backend: the registry of backends as one snapshot, and the links agents get.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt as _;
use mcpool_breaker::{Breaker, State};
use mcpool_upstream::{Backend, BackendStatus, Mode, ModeChoice, Seat};
use mcpool_wire::{
    Answer, Backends, Call, CallError, ErrorKind, Hello, Link, Message, Reply, Revision, ServerEntry, Target,
};
use tower::Service as _;

use crate::{
    config::transport_word,
    stack::{BackendStack, Order, now},
};

/// One backend with everything that stands in front of it.
pub struct Registered {
    /// The configured name.
    pub name: Arc<str>,
    /// Its sessions.
    pub backend: Arc<Backend>,
    /// Its circuit.
    pub breaker: Breaker,
    pub(crate) stack: BackendStack,
}

/// All backends at one moment.
#[derive(Default)]
pub struct Registry {
    pub(crate) backends: BTreeMap<Arc<str>, Arc<Registered>>,
    /// The one meant by `/mcp` and `/sse`.
    pub(crate) default: Option<Arc<str>>,
}

/// Routes agents to backends. Cloning gives another handle to the same registry.
#[derive(Clone)]
pub struct Router {
    registry: Arc<ArcSwap<Registry>>,
}

/// One agent's tie to one backend.
pub struct GatewayLink {
    seat: Arc<Seat>,
    stack: BackendStack,
}

impl Registered {
    /// Ties an agent to this backend.
    ///
    /// # Errors
    /// Why there is no session for it.
    ///
    /// # Cancel safety
    /// Dropping the future gives everything back; a handshake others wait for goes on.
    pub async fn open(&self, hello: &Hello) -> Result<GatewayLink, CallError> {
        let seat = self.backend.seat(hello).await?;
        Ok(GatewayLink { seat: Arc::new(seat), stack: self.stack.clone() })
    }

    /// State and reason as shown to agents and operators.
    #[must_use]
    pub fn state(&self) -> (&'static str, String) {
        describe(&self.backend.status(), self.breaker.snapshot(now()).state)
    }
}

/// State and reason from what is seen of a backend.
pub(crate) fn describe(status: &BackendStatus, circuit: State) -> (&'static str, String) {
    let ready = status.sessions.iter().filter(|s| s.standing == "ready").count();
    let why = status.trouble.as_ref().map(|trouble| trouble.why.clone());
    if ready > 0 {
        return ("ready", format!("{ready} sessions ready for {} agents", status.agents));
    }
    match (circuit, why) {
        (State::Open | State::HalfOpen, why) => {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            ("down", format!("circuit {}{why}", circuit.as_str()))
        }
        (State::Closed, Some(why)) => ("down", why),
        (State::Closed, None) if status.opening > 0 => {
            ("connecting", "the first handshake is under way".to_owned())
        }
        (State::Closed, None) => ("idle", "no session is open; the next call opens one".to_owned()),
    }
}

impl Router {
    pub(crate) fn new(registry: Arc<ArcSwap<Registry>>) -> Self {
        Self { registry }
    }

    fn find(&self, name: &str) -> Option<Arc<Registered>> {
        self.registry.load().backends.get(name).cloned()
    }
}

impl Backends for Router {
    type Link = GatewayLink;

    fn target(&self, name: Option<&str>) -> Result<Target, String> {
        let registry = self.registry.load();
        let names = || registry.backends.keys().map(|n| n.as_ref()).collect::<Vec<_>>().join(", ");
        let name = match name {
            Some(name) => registry.backends.get_key_value(name).map(|(name, _)| name.clone()).ok_or_else(|| {
                format!("no backend is named {name:?}; there are: {}", names())
            })?,
            None => registry.default.clone().ok_or_else(|| {
                format!(
                    "several backends are configured and none is the default_backend; use /NAME/mcp or /NAME/sse with \
                     one of: {}",
                    names()
                )
            })?,
        };
        Ok(Target { name })
    }

    fn open(&self, hello: Hello) -> Reply<Arc<GatewayLink>> {
        let Some(registered) = self.find(&hello.target.name) else {
            let message = format!("backend {:?} is no longer configured", hello.target.name);
            return futures::future::ready(Err(CallError::not_sent(ErrorKind::Unavailable, message))).boxed();
        };
        async move { registered.open(&hello).await.map(Arc::new) }.boxed()
    }

    fn servers(&self) -> Vec<ServerEntry> {
        self.registry.load().backends.values().map(|registered| entry(registered)).collect()
    }
}

fn entry(registered: &Registered) -> ServerEntry {
    let spec = registered.backend.spec();
    let status = registered.backend.status();
    let (state, reason) = describe(&status, registered.breaker.snapshot(now()).state);
    let configured = transport_word(spec.transport);
    ServerEntry {
        name: registered.name.to_string(),
        transport: status.transport.unwrap_or(configured).to_owned(),
        mode: status.mode.map_or(mode_word(spec.mode), |decision| decision.mode.as_str()).to_owned(),
        state: state.to_owned(),
        reason,
    }
}

/// The configured mode as a word.
pub(crate) fn mode_word(mode: ModeChoice) -> &'static str {
    match mode {
        ModeChoice::Auto => "auto",
        ModeChoice::Shared => "shared",
        ModeChoice::Exclusive => "exclusive",
        ModeChoice::Pinned => "pinned",
    }
}

impl GatewayLink {
    /// Who may use the sessions of this agent.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.seat.mode()
    }
}

impl Link for GatewayLink {
    fn initialize_result(&self, revision: Revision) -> Bytes {
        self.seat.initialize_result(revision)
    }

    fn is_own(&self) -> bool {
        self.mode() == Mode::Pinned
    }

    fn call(&self, call: Call) -> Reply<Answer> {
        self.stack.clone().call(Order::new(call, self.seat.clone()))
    }

    fn notify(&self, notification: Bytes) {
        self.seat.notify(notification);
    }

    fn respond(&self, id: u64, response: Message) {
        self.seat.respond(id, &response);
    }
}
