//! Putting it together: for each configured backend its circuit, its sessions and its stack, and what feeds what.
//!
//! The breaker hears of incidents and successes through the backend's events; the opener asks it before each
//! handshake; and every transition makes those who wait look again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use mcpool_breaker::{Breaker, Transition};
use mcpool_upstream::{
    Backend, BackendSpec, Event, Gate, Observe, OpenReason, Opening, Source,
    transport::{Transport, transport},
};

use crate::{
    route::{Registered, Registry, Router},
    stack::{RetrySettings, StackObserve, backend_stack, now},
};

/// Everything one backend is configured to be.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// Where, how, how many.
    pub spec: BackendSpec,
    /// Its circuit.
    pub breaker: mcpool_breaker::Settings,
    /// How calls are repeated.
    pub retry: RetrySettings,
}

/// Told what happens behind the front.
pub trait GatewayObserve: Observe {
    /// The observer of one backend's stack.
    fn stack(&self, backend: &Source) -> Arc<dyn StackObserve>;

    /// A circuit changed.
    fn transition(&self, backend: &Source, transition: &Transition);
}

/// The running backends.
pub struct Gateway {
    registry: Arc<ArcSwap<Registry>>,
}

impl Gateway {
    /// Starts every backend. None of them has to be up: they are reached when needed.
    ///
    /// # Errors
    /// A sentence for the operator when a backend cannot be set up at all (unusable CA file, ...).
    pub fn start<O: GatewayObserve>(
        settings: Vec<BackendSettings>,
        default_backend: Option<&str>,
        observe: &Arc<O>,
    ) -> Result<Self, String> {
        let mut backends = BTreeMap::new();
        for one in settings {
            let registered = register(one, observe)?;
            backends.insert(registered.name.clone(), Arc::new(registered));
        }
        let default = match default_backend {
            Some(name) => backends.get_key_value(name).map(|(name, _)| name.clone()),
            None if backends.len() == 1 => backends.keys().next().cloned(),
            None => None,
        };
        Ok(Self { registry: Arc::new(ArcSwap::from_pointee(Registry { backends, default })) })
    }

    /// The front's way in.
    #[must_use]
    pub fn router(&self) -> Router {
        Router::new(self.registry.clone())
    }

    /// Every backend, by name.
    #[must_use]
    pub fn backends(&self) -> Vec<Arc<Registered>> {
        self.registry.load().backends.values().cloned().collect()
    }

    /// The backend meant by `/mcp` and `/sse`.
    #[must_use]
    pub fn default_backend(&self) -> Option<Arc<str>> {
        self.registry.load().default.clone()
    }

    /// Ends every session; names what still runs at the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the sessions ending by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        let ends = self.backends().into_iter().map(|registered| async move {
            let left = registered.backend.shutdown(deadline).await;
            left.into_iter().map(|(task, n)| format!("{n} {task} of {}", registered.name)).collect::<Vec<_>>()
        });
        futures::future::join_all(ends).await.into_iter().flatten().collect()
    }
}

fn register<O: GatewayObserve>(settings: BackendSettings, observe: &Arc<O>) -> Result<Registered, String> {
    let spec = settings.spec;
    let transport = transport(&spec).map_err(|why| format!("backend {:?}: {why}", spec.name))?;
    register_with(spec, transport, &settings.breaker, settings.retry, observe)
}

/// Registers a backend over a given transport.
///
/// # Errors
/// A sentence for the operator.
pub fn register_with<O: GatewayObserve>(
    spec: BackendSpec,
    transport: Arc<dyn Transport>,
    breaker: &mcpool_breaker::Settings,
    retry: RetrySettings,
    observe: &Arc<O>,
) -> Result<Registered, String> {
    let source = Source { id: spec.id, name: spec.name.clone() };
    // The circuit must know the backend to wake its waiters, and the backend asks the circuit: the cell ties the
    // knot, weakly, so that a removed backend goes away.
    let woken: Arc<OnceLock<Weak<Backend>>> = Arc::default();
    let woken_by = woken.clone();
    let reconsider = move || {
        if let Some(backend) = woken_by.get().and_then(Weak::upgrade) {
            backend.reconsider();
        }
    };
    // Replicas whose backend died together must not probe it together.
    let settings = mcpool_breaker::Settings { jitter: Some(rand::random()), ..breaker.clone() };
    let told = {
        let (observe, source, reconsider) = (observe.clone(), source.clone(), reconsider.clone());
        move |transition| {
            observe.transition(&source, &transition);
            reconsider();
        }
    };
    let breaker = Breaker::with_listeners(&settings, now(), told, reconsider);
    let feed = Arc::new(Feed {
        breaker: breaker.clone(),
        crash: Mutex::default(),
        next: observe.clone() as Arc<dyn Observe>,
    });
    let name = spec.name.clone();
    let gate = Arc::new(BreakerGate(breaker.clone()));
    let backend =
        Backend::start(spec, transport, gate, feed).map_err(|why| format!("backend {name:?}: {why}"))?;
    let _ = woken.set(Arc::downgrade(&backend));
    let stack = backend_stack(&backend, &breaker, retry, &observe.stack(&source));
    Ok(Registered { name, backend, breaker, stack })
}

/// Asks the circuit before each handshake.
struct BreakerGate(Breaker);

impl Gate for BreakerGate {
    fn may_open(&self, now: Instant) -> Opening {
        match self.0.may_open(now) {
            mcpool_breaker::Opening::Free => Opening::Free,
            mcpool_breaker::Opening::Probe => Opening::Probe,
            mcpool_breaker::Opening::Wait(at) => Opening::Wait(at),
        }
    }

    fn wants_probe(&self, now: Instant) -> bool {
        self.0.would_admit(now).is_err()
    }
}

/// Feeds the circuit with what happens to sessions, and passes everything on.
struct Feed {
    breaker: Breaker,
    crash: Mutex<Crash>,
    next: Arc<dyn Observe>,
}

/// The sessions of a backend that dies are lost one after another within moments: that is one incident, not as many as
/// there were sessions.
#[derive(Debug, Default)]
struct Crash {
    /// The last one counted: when, and the newest session begun by then, which is the last it can have taken along.
    counted: Option<(Instant, u64)>,
    /// The newest session begun.
    newest: u64,
}

impl Crash {
    fn opening(&mut self, epoch: u64) {
        self.newest = self.newest.max(epoch);
    }

    /// Whether the end of this session is news.
    fn is_news(&mut self, epoch: u64, now: Instant) -> bool {
        let is_same = self
            .counted
            .is_some_and(|(at, newest)| epoch <= newest && now.saturating_duration_since(at) < ONE_CRASH);
        if !is_same {
            self.counted = Some((now, self.newest));
        }
        !is_same
    }
}

/// How long the sessions of one crash may take to be lost.
const ONE_CRASH: Duration = Duration::from_secs(1);

impl Feed {
    fn crash(&self) -> MutexGuard<'_, Crash> {
        self.crash.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observe for Feed {
    fn on(&self, backend: &Source, event: Event<'_>) {
        let now = now();
        if let Event::Opening { epoch, .. } = &event {
            self.crash().opening(*epoch);
        }
        match &event {
            Event::Opening { epoch, reason: OpenReason::Probe } => self.breaker.probe_started(*epoch, now),
            Event::Opened { epoch, reason: OpenReason::Probe, .. } => {
                self.breaker.probe_succeeded(*epoch, now)
            }
            Event::Opened { epoch, started, .. } => self.breaker.success(*epoch, *started, now),
            Event::OpenFailed { epoch, reason: OpenReason::Probe, incident, .. } => match incident {
                Some(kind) => self.breaker.probe_failed(*epoch, kind, now),
                // It refused us, so it is there: what is wrong is not for a circuit to heal.
                None => self.breaker.probe_succeeded(*epoch, now),
            },
            Event::OpenFailed { epoch, incident: Some(kind), .. } => {
                self.breaker.incident(*epoch, kind, now);
            }
            Event::Closed { epoch, incident: Some(kind), .. } if self.crash().is_news(*epoch, now) => {
                self.breaker.incident(*epoch, kind, now);
            }
            Event::Answered { epoch, started, .. } => self.breaker.success(*epoch, *started, now),
            _ => {}
        }
        self.next.on(backend, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_lost_together_are_one_crash_and_one_opened_since_is_another() {
        let start = now();
        let mut crash = Crash::default();
        (1..=8).for_each(|epoch| crash.opening(epoch));
        let lost = |crash: &mut Crash, epoch, ms| crash.is_news(epoch, start + Duration::from_millis(ms));
        assert!(lost(&mut crash, 3, 0));
        for epoch in [1, 2, 4, 5, 6, 7, 8] {
            assert!(!lost(&mut crash, epoch, 10 * epoch));
        }
        crash.opening(9);
        assert!(lost(&mut crash, 9, 100), "it was opened after the crash, and broke all the same");
        assert!(!lost(&mut crash, 7, 1_050));
        assert!(lost(&mut crash, 8, 1_100), "too late to be the same");
    }
}
