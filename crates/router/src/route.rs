//! Routing: from a URL to a backend, over a registry that is one snapshot.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use http::HeaderName;
use mcpool_upstream::{Backend, Binding, Mode, ModeReason};
use mcpool_wire::{
    Backends, CallError, Caller, ClientHello, ErrorKind, Hello, Identity, Reply, ServerEntry, Target,
};

pub use crate::link::GatewayLink;
use crate::{
    link::{Attachment, Links},
    registry::{Registered, Registry, bind_unless_retired, find},
    stack::now,
    state::describe,
};

/// Routes agents to backends. Clones share the registry.
#[derive(Clone)]
pub struct Router {
    registry: Arc<ArcSwap<Registry>>,
    links: Arc<Links>,
    /// Clients already logged as having own sessions only because of their declared capabilities.
    logged: Arc<Mutex<HashSet<String>>>,
}

/// Maximum number of logged clients.
const MAX_LOGGED: usize = 256;

impl Router {
    pub(crate) fn new(registry: Arc<ArcSwap<Registry>>, links: Arc<Links>) -> Self {
        Self { registry, links, logged: Arc::default() }
    }

    /// Logs once per client that its agents have sessions of their own only because of declared capabilities.
    fn log_declared_capabilities(&self, backend: &Backend, binding: &Binding, hello: &Hello) {
        let decided =
            |interactive| backend.mode_of(interactive).map(|decision| (decision.mode, decision.reason));
        let is_declared = binding.mode() == Mode::Pinned
            && decided(true).is_some_and(|(_, reason)| reason == ModeReason::Interactive)
            && decided(false).is_some_and(|(mode, _)| mode != Mode::Pinned);
        if !is_declared {
            return;
        }
        let client = hello.client.client_info["name"].as_str().unwrap_or("?");
        let backend = &backend.spec().name;
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MAX_LOGGED && logged.insert(format!("{backend} {client}")) {
            let declares: Vec<&str> = hello
                .client
                .capabilities
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key.as_str())
                .collect();
            tracing::info!(
                target: "mcpool::backend",
                %backend,
                client,
                declares = declares.join(", "),
                "agents of this client get pinned sessions only because the client declares these capabilities; \
                 if the server sends them no requests, mode = \"shared\" shares its sessions"
            );
        }
    }

    async fn attach(&self, hello: Hello) -> Result<Arc<GatewayLink>, CallError> {
        let name = &hello.target.name;
        let start = now();
        // Repeats on every configuration change; the front bounds the time.
        loop {
            let Some(registered) = find(&self.registry, name) else {
                let message = format!("backend {name:?} is no longer configured");
                return Err(CallError::not_sent(ErrorKind::Unavailable, message));
            };
            let patience = registered.backend.spec().times.first_open;
            if let Some(binding) = bind_unless_retired(&registered, &hello, patience).await? {
                self.log_declared_capabilities(&registered.backend, &binding, &hello);
                let attachment = Attachment::new(&registered, binding);
                return Ok(Arc::new(GatewayLink::new(hello, self.registry.clone(), attachment, &self.links)));
            }
            let time = now().saturating_duration_since(start);
            if time > patience * 2 {
                let message =
                    format!("the configuration of backend {name:?} changes faster than it becomes ready");
                return Err(CallError::not_sent(ErrorKind::Unavailable, message).of_backend(name.clone()));
            }
        }
    }
}

impl Backends for Router {
    type Link = GatewayLink;

    fn target(&self, name: Option<&str>, _: &Identity) -> Result<Target, String> {
        let registry = self.registry.load();
        let names = || registry.backends.keys().map(|n| n.as_ref()).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => registry
                .backends
                .get(name)
                .map(|registered| registered.target())
                .ok_or_else(|| format!("no backend is named {name:?}; there are: {}", names())),
            None => registry.default.clone().ok_or_else(|| {
                format!(
                    "several backends are configured and none is the default_backend; use /NAME/mcp or /NAME/sse with \
                     one of: {}",
                    names()
                )
            }),
        }
    }

    fn open(&self, hello: Hello) -> Reply<Arc<GatewayLink>> {
        let router = self.clone();
        async move { router.attach(hello).await }.boxed()
    }

    fn prefers_handshake(&self, target: &Target, caller: &Caller, client: &ClientHello) -> bool {
        find(&self.registry, &target.name)
            .is_some_and(|registered| registered.backend.prefers_handshake(client, caller.affinity.is_some()))
    }

    fn forwards(&self, target: &Target) -> Arc<[HeaderName]> {
        find(&self.registry, &target.name).map(|registered| registered.forwards.clone()).unwrap_or_default()
    }

    fn servers(&self, _: &Identity) -> Vec<ServerEntry> {
        self.registry.load().backends.values().map(|registered| entry(registered)).collect()
    }
}

fn entry(registered: &Registered) -> ServerEntry {
    let spec = registered.backend.spec();
    let status = registered.backend.status();
    let (state, reason) = describe(&status, registered.breaker.snapshot(now()).state);
    let configured = spec.transport.as_str();
    ServerEntry {
        name: registered.name.to_string(),
        transport: status.transport.unwrap_or(configured).to_owned(),
        mode: status.mode.map_or(spec.mode.as_str(), |decision| decision.mode.as_str()).to_owned(),
        state: state.to_owned(),
        reason,
    }
}
