//! The registry: all registered backends, as one snapshot that is replaced as a whole.
//!
//! A registration is one configuration of a backend with its circuit, its sessions and its stack, built here.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderName;
use mcpool_breaker::Breaker;
use mcpool_upstream::{
    Backend, BackendSpec, Binding, Credential, Leaving, Source, StaticHeaders, TrafficState,
    transport::{Transport, transport},
};
use mcpool_wire::{CallError, Hello, Target};
use tokio_util::sync::CancellationToken;

use crate::{
    breaker_feed::{BreakerGate, Feed},
    events::GatewayObserve,
    settings::{BackendSettings, RetrySettings},
    stack::{BackendStack, backend_stack, now},
    state::describe,
};

/// One registered backend with its circuit and stack.
pub struct Registered {
    /// The configured name.
    pub name: Arc<str>,
    /// Its sessions.
    pub backend: Arc<Backend>,
    /// Its circuit.
    pub breaker: Breaker,
    pub(crate) stack: BackendStack,
    /// Agent headers forwarded to it, sorted by name.
    pub(crate) forwards: Arc<[HeaderName]>,
    /// Its configuration.
    pub(crate) settings: BackendSettings,
    /// Cancelled when the registration ends.
    pub(crate) retired: CancellationToken,
}

/// All backends at one moment.
#[derive(Default)]
pub struct Registry {
    pub(crate) backends: BTreeMap<Arc<str>, Arc<Registered>>,
    /// The backend behind `/mcp` and `/sse`.
    pub(crate) default: Option<Target>,
}

impl Registered {
    /// The target of its agents.
    pub(crate) fn target(&self) -> Target {
        Target { name: self.name.clone(), durable_id: self.backend.spec().durable_id.clone() }
    }

    /// Ends the registration; waiting calls then look for its successor.
    pub(crate) fn leave(&self, why: Leaving) {
        self.backend.leave(why);
        self.retired.cancel();
    }

    /// State and reason, for agents and operators.
    #[must_use]
    pub fn state(&self) -> (&'static str, String) {
        describe(&self.backend.status(), self.breaker.snapshot(now()).state)
    }
}

/// The current registration of this name.
pub(crate) fn find(registry: &ArcSwap<Registry>, name: &str) -> Option<Arc<Registered>> {
    registry.load().backends.get(name).cloned()
}

/// A binding, or `None` if the registration ended meanwhile.
///
/// # Cancel safety
/// Dropping the future releases everything it holds.
pub(crate) async fn bind_unless_retired(
    registered: &Registered,
    hello: &Hello,
    patience: Duration,
) -> Result<Option<Binding>, CallError> {
    tokio::select! {
        biased;
        binding = registered.backend.bind_within(hello, patience) => match binding {
            Err(_) if registered.retired.is_cancelled() => Ok(None),
            settled => settled.map(Some),
        },
        () = registered.retired.cancelled() => Ok(None),
    }
}

/// The backend behind `/mcp` and `/sse`: the configured default, else the only backend.
pub(crate) fn default_of(
    backends: &BTreeMap<Arc<str>, Arc<Registered>>,
    named: Option<&str>,
) -> Option<Target> {
    let default = match named {
        Some(name) => backends.get(name),
        None => backends.values().next().filter(|_| backends.len() == 1),
    };
    default.map(|registered| registered.target())
}

pub(crate) fn register(
    settings: BackendSettings,
    before: Option<&Arc<Registered>>,
    observe: &Arc<dyn GatewayObserve>,
) -> Result<Registered, String> {
    let spec = &settings.spec;
    let credential = StaticHeaders::of(spec);
    let transport = transport(spec, &credential).map_err(|why| format!("backend {:?}: {why}", spec.name))?;
    assemble(settings, (transport, credential), before, observe)
}

/// Registers a backend over a given transport.
///
/// # Errors
/// One sentence for the operator.
pub fn register_with<O: GatewayObserve>(
    spec: BackendSpec,
    transport: Arc<dyn Transport>,
    breaker: &mcpool_breaker::Settings,
    retry: RetrySettings,
    observe: &Arc<O>,
) -> Result<Registered, String> {
    let observe: Arc<dyn GatewayObserve> = observe.clone();
    let credential = StaticHeaders::of(&spec);
    let settings = BackendSettings { spec, breaker: breaker.clone(), retry };
    assemble(settings, (transport, credential), None, &observe)
}

fn assemble(
    settings: BackendSettings,
    (transport, credential): (Arc<dyn Transport>, Arc<dyn Credential>),
    before: Option<&Arc<Registered>>,
    observe: &Arc<dyn GatewayObserve>,
) -> Result<Registered, String> {
    let spec = settings.spec.clone();
    let source = Source { id: spec.id, name: spec.name.clone() };
    // Circuit and backend refer to each other. The cell links them, weakly, so that a removed backend is freed.
    let cell: Arc<OnceLock<Weak<Backend>>> = Arc::default();
    let backend_cell = cell.clone();
    let reconsider = move || {
        if let Some(backend) = backend_cell.get().and_then(Weak::upgrade) {
            backend.reconsider();
        }
    };
    // Jitter keeps replicas from probing a backend at the same moment.
    let circuit = mcpool_breaker::Settings { jitter: Some(rand::random()), ..settings.breaker.clone() };
    let on_transition = {
        let (observe, source, reconsider) = (observe.clone(), source.clone(), reconsider.clone());
        move |transition| {
            observe.transition(&source, &transition);
            reconsider();
        }
    };
    let breaker = Breaker::with_listeners(&circuit, now(), on_transition, reconsider);
    let feed = Arc::new(Feed::new(breaker.clone(), cell.clone(), observe.clone()));
    let name = spec.name.clone();
    let gate = Arc::new(BreakerGate::new(breaker.clone(), &spec, before.map(|old| &old.backend)));
    // Created before the first event, so that none is lost.
    let observed = observe.stack(&source);
    let backend = Backend::start(spec, transport, credential, gate, feed)
        .map_err(|why| format!("backend {name:?}: {why}"))?;
    let _ = cell.set(Arc::downgrade(&backend));
    // Pause and drain apply to the name: a new configuration does not revert them.
    match before.map(|old| old.backend.traffic()) {
        Some(TrafficState::Paused) => backend.pause(),
        Some(TrafficState::Drained) => backend.drain(),
        Some(TrafficState::Flowing | TrafficState::Resuming) | None => {}
    }
    let stack = backend_stack(&backend, &breaker, settings.retry, &observed);
    let retired = CancellationToken::new();
    let forwards = in_order(&backend.spec().sharing.forward_headers);
    Ok(Registered { name, backend, breaker, stack, forwards, settings, retired })
}

/// Forwarded header names, sorted and unique.
fn in_order(names: &[HeaderName]) -> Arc<[HeaderName]> {
    let mut names = names.to_vec();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names.into()
}
