//! Putting it together: for each configured backend its circuit, its sessions and its stack, and what feeds what.
//!
//! The breaker hears of incidents and successes through the backend's events; the opener asks it before each
//! handshake; and every transition makes those who wait look again. A change of the configuration replaces the set as
//! one snapshot; what it leaves behind is seen off in `retire.rs`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::HeaderName;
use mcpool_breaker::{Breaker, Transition};
use mcpool_upstream::{
    Backend, BackendSpec, Cause, Endpoint, Event, Gate, Leaving, Observe, OpenReason, Opening, Source,
    Traffic,
    transport::{Transport, transport},
};
use mcpool_wire::BackendId;
use tokio_util::sync::CancellationToken;

use crate::{
    link::Links,
    retire::Departures,
    route::{Registered, Registry, Router},
    stack::{RetrySettings, StackObserve, backend_stack, now},
};

/// Everything one backend is configured to be.
#[derive(Clone, Debug, PartialEq)]
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

    /// A registration ended; it finishes what it has.
    fn leaves(&self, _old: &Registered) {}

    /// The last registration of this name is over.
    fn gone(&self, _name: &str) {}
}

/// The running backends.
pub struct Gateway {
    registry: Arc<ArcSwap<Registry>>,
    links: Arc<Links>,
    departures: Departures,
    observe: Arc<dyn GatewayObserve>,
    /// The id of the next backend of a new name.
    next_id: AtomicU32,
}

/// What a new configuration changed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New names.
    pub added: Vec<Arc<str>>,
    /// Names with another configuration.
    pub changed: Vec<Arc<str>>,
    /// Names that are gone.
    pub removed: Vec<Arc<str>>,
    /// Names that go on as they were.
    pub kept: usize,
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
        let observe: Arc<dyn GatewayObserve> = observe.clone();
        let next_id = settings.iter().map(|one| one.spec.id.0.saturating_add(1)).max().unwrap_or(0);
        let mut backends = BTreeMap::new();
        for one in settings {
            let registered = register(one, None, &observe)?;
            backends.insert(registered.name.clone(), Arc::new(registered));
        }
        let default = default_of(&backends, default_backend);
        let registry = Arc::new(ArcSwap::from_pointee(Registry { backends, default }));
        let links = Arc::new(Links::default());
        let departures = Departures::start(registry.clone(), links.clone(), observe.clone());
        Ok(Self { registry, links, departures, observe, next_id: AtomicU32::new(next_id) })
    }

    /// Puts another set of backends in force, without a failed call: those that are configured as before go on, the
    /// others start or are seen off. To be called by one at a time.
    ///
    /// # Errors
    /// A sentence for the operator when a backend cannot be set up at all; then nothing has changed.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the change is in force.
    pub async fn apply(
        &self,
        settings: Vec<BackendSettings>,
        default_backend: Option<&str>,
    ) -> Result<Changes, String> {
        let before = self.registry.load_full();
        let mut next = Next::default();
        for one in settings {
            if let Err(why) = next.take(one, &before, self) {
                next.give_up().await;
                return Err(why);
            }
        }
        let Next { backends, mut changes, .. } = next;
        let default = default_of(&backends, default_backend);
        changes.removed =
            before.backends.keys().filter(|name| !backends.contains_key(*name)).cloned().collect();
        self.registry.store(Arc::new(Registry { backends, default }));
        for (names, why) in [(&changes.changed, Leaving::Replaced), (&changes.removed, Leaving::Removed)] {
            for old in names.iter().filter_map(|name| before.backends.get(name)) {
                self.observe.leaves(old);
                self.departures.begin(old.clone(), why).await;
            }
        }
        Ok(changes)
    }

    /// The front's way in.
    #[must_use]
    pub fn router(&self) -> Router {
        Router::new(self.registry.clone(), self.links.clone())
    }

    /// Every backend, by name.
    #[must_use]
    pub fn backends(&self) -> Vec<Arc<Registered>> {
        self.registry.load().backends.values().cloned().collect()
    }

    /// Registrations that ended and still have sessions, oldest first.
    #[must_use]
    pub fn leaving(&self) -> Vec<Arc<Registered>> {
        self.departures.under_way()
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
        let all = self.backends().into_iter().chain(self.leaving());
        let ends = all.map(|registered| async move {
            let left = registered.backend.shutdown(deadline).await;
            left.into_iter().map(|(task, n)| format!("{n} {task} of {}", registered.name)).collect::<Vec<_>>()
        });
        let (left, ()) = futures::join!(futures::future::join_all(ends), self.departures.stop(deadline));
        left.into_iter().flatten().collect()
    }
}

/// The set of backends that is about to be put in force.
#[derive(Default)]
struct Next {
    backends: BTreeMap<Arc<str>, Arc<Registered>>,
    changes: Changes,
    started: Vec<Arc<Registered>>,
}

impl Next {
    /// Keeps the registration of this name if it is configured as before, else starts another one.
    fn take(&mut self, mut one: BackendSettings, before: &Registry, gateway: &Gateway) -> Result<(), String> {
        let name = one.spec.name.clone();
        let known = before.backends.get(&name);
        if let Some(known) = known {
            (one.spec.id, one.spec.generation) = (known.settings.spec.id, known.settings.spec.generation);
            if one == known.settings {
                self.changes.kept += 1;
                self.backends.insert(name, known.clone());
                return Ok(());
            }
            one.spec.generation += 1;
            self.changes.changed.push(name.clone());
        } else {
            one.spec.id = BackendId(gateway.next_id.fetch_add(1, Ordering::Relaxed));
            self.changes.added.push(name.clone());
        }
        let registered = Arc::new(register(one, known, &gateway.observe)?);
        self.started.push(registered.clone());
        self.backends.insert(name, registered);
        Ok(())
    }

    /// Another one could not be started: nothing changes, so these are for nobody.
    async fn give_up(self) {
        for one in self.started {
            one.backend.shutdown(Duration::ZERO).await;
        }
    }
}

/// What `/mcp` and `/sse` mean: what the operator says, else the only backend there is.
fn default_of(backends: &BTreeMap<Arc<str>, Arc<Registered>>, named: Option<&str>) -> Option<Arc<str>> {
    match named {
        Some(name) => backends.get_key_value(name).map(|(name, _)| name.clone()),
        None if backends.len() == 1 => backends.keys().next().cloned(),
        None => None,
    }
}

fn register(
    settings: BackendSettings,
    before: Option<&Arc<Registered>>,
    observe: &Arc<dyn GatewayObserve>,
) -> Result<Registered, String> {
    let spec = &settings.spec;
    let transport = transport(spec).map_err(|why| format!("backend {:?}: {why}", spec.name))?;
    assemble(settings, transport, before, observe)
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
    let observe: Arc<dyn GatewayObserve> = observe.clone();
    assemble(BackendSettings { spec, breaker: breaker.clone(), retry }, transport, None, &observe)
}

fn assemble(
    settings: BackendSettings,
    transport: Arc<dyn Transport>,
    before: Option<&Arc<Registered>>,
    observe: &Arc<dyn GatewayObserve>,
) -> Result<Registered, String> {
    let spec = settings.spec.clone();
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
    let circuit = mcpool_breaker::Settings { jitter: Some(rand::random()), ..settings.breaker.clone() };
    let told = {
        let (observe, source, reconsider) = (observe.clone(), source.clone(), reconsider.clone());
        move |transition| {
            observe.transition(&source, &transition);
            reconsider();
        }
    };
    let breaker = Breaker::with_listeners(&circuit, now(), told, reconsider);
    let feed = Arc::new(Feed {
        breaker: breaker.clone(),
        backend: woken.clone(),
        crash: Mutex::default(),
        next: observe.clone(),
    });
    let name = spec.name.clone();
    // Two processes at once could work on one file: the one before must have let go of it.
    let waits_for = before.filter(|old| {
        let is_process = |spec: &BackendSpec| matches!(spec.endpoint, Endpoint::Stdio(_));
        is_process(&spec) && is_process(old.backend.spec())
    });
    let times = &spec.times;
    let after = waits_for.map(|old| After {
        backend: Arc::downgrade(&old.backend),
        calls: now() + times.drain.min(times.queue / 2),
        writes: now() + times.drain,
    });
    let gate = Arc::new(BreakerGate { breaker: breaker.clone(), after });
    // Before the first event.
    let observed = observe.stack(&source);
    let backend =
        Backend::start(spec, transport, gate, feed).map_err(|why| format!("backend {name:?}: {why}"))?;
    let _ = woken.set(Arc::downgrade(&backend));
    // The operator's word is about the name: a change of the configuration does not take it back.
    match before.map(|old| old.backend.traffic()) {
        Some(Traffic::Paused) => backend.pause(),
        Some(Traffic::Drained) => backend.drain(),
        Some(Traffic::Flowing | Traffic::Resuming) | None => {}
    }
    let stack = backend_stack(&backend, &breaker, settings.retry, &observed);
    let left = CancellationToken::new();
    let forwards = in_order(&backend.spec().sharing.forward_headers);
    Ok(Registered { name, backend, breaker, stack, forwards, settings, left })
}

/// The headers of agents a backend is given, each once and in the order of their names.
fn in_order(names: &[HeaderName]) -> Arc<[HeaderName]> {
    let mut names = names.to_vec();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names.into()
}

/// Asks the circuit before each handshake.
struct BreakerGate {
    breaker: Breaker,
    /// Whose sessions must be over first.
    after: Option<After>,
}

/// The process before this one, and how long its calls are waited for: not so long that those who wait for the next
/// process give up.
struct After {
    backend: Weak<Backend>,
    calls: Instant,
    /// Two writes at once are worse than a wait.
    writes: Instant,
}

impl After {
    fn is_in_the_way(&self, now: Instant) -> bool {
        self.backend.upgrade().is_some_and(|old| {
            (now < self.calls && old.has_shared()) || (now < self.writes && old.is_writing())
        })
    }
}

impl Gate for BreakerGate {
    fn may_open(&self, now: Instant) -> Opening {
        if self.after.as_ref().is_some_and(|after| after.is_in_the_way(now)) {
            return Opening::Wait(now + LOOK_AGAIN);
        }
        match self.breaker.may_open(now) {
            mcpool_breaker::Opening::Free => Opening::Free,
            mcpool_breaker::Opening::Probe => Opening::Probe,
            mcpool_breaker::Opening::Wait(at) => Opening::Wait(at),
        }
    }

    fn wants_probe(&self, now: Instant) -> bool {
        self.breaker.would_admit(now).is_err()
    }
}

/// Feeds the circuit with what happens to sessions, and passes everything on.
struct Feed {
    breaker: Breaker,
    backend: Arc<OnceLock<Weak<Backend>>>,
    crash: Mutex<Crash>,
    next: Arc<dyn GatewayObserve>,
}

/// The sessions of a backend that dies are lost one after another within moments: that is one incident, not as many as
/// there were sessions. The next session may be opened on a connection of before, whose end the client has not seen yet,
/// and break like the last: that is still the same crash.
#[derive(Debug, Default)]
struct Crash {
    /// The last one counted: when, and the newest session begun by then, which is the last it can have taken along.
    counted: Option<(Instant, u64)>,
    /// The newest session begun.
    newest: u64,
    /// The newest session begun while connections of before may still be at hand.
    hurried: u64,
}

impl Crash {
    fn opening(&mut self, epoch: u64, now: Instant) {
        self.newest = self.newest.max(epoch);
        if self.counted.is_some_and(|(at, _)| now.saturating_duration_since(at) < STALE) {
            self.hurried = self.newest;
        }
    }

    /// Whether an opening that broke did so by the crash that was counted.
    fn is_echo(&self, epoch: u64, kind: &str, now: Instant) -> bool {
        let is_soon = |at| now.saturating_duration_since(at) < ONE_CRASH;
        kind == "broken" && epoch <= self.hurried && self.counted.is_some_and(|(at, _)| is_soon(at))
    }

    /// Whether the end of this session is news.
    fn is_news(&mut self, epoch: u64, now: Instant) -> bool {
        let is_same = self
            .counted
            .is_some_and(|(at, newest)| epoch <= newest && now.saturating_duration_since(at) < ONE_CRASH);
        if !is_same {
            self.counted = Some((now, self.newest));
            self.hurried = self.newest;
        }
        !is_same
    }
}

/// How long the sessions of one crash may take to be lost.
const ONE_CRASH: Duration = Duration::from_secs(1);
/// How long a client may take to see that its idle connections ended. Shorter than two pauses between handshakes, so that
/// a backend that breaks each of them is still found out.
const STALE: Duration = Duration::from_millis(100);

impl Feed {
    /// Whether the backend rests by its operator's word, so that nothing is to be learnt from a probe that failed.
    fn rests(&self) -> bool {
        self.backend.get().and_then(Weak::upgrade).is_some_and(|backend| backend.traffic().is_shut())
    }

    fn crash(&self) -> MutexGuard<'_, Crash> {
        self.crash.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observe for Feed {
    fn on(&self, backend: &Source, event: Event<'_>) {
        let now = now();
        if let Event::Opening { epoch, .. } = &event {
            self.crash().opening(*epoch, now);
        }
        match &event {
            Event::Opening { epoch, reason: OpenReason::Probe } => self.breaker.probe_started(*epoch, now),
            Event::Opened { epoch, reason: OpenReason::Probe, .. } => {
                self.breaker.probe_succeeded(*epoch, now)
            }
            Event::Opened { epoch, started, .. } => self.breaker.success(*epoch, *started, now),
            Event::OpenFailed { epoch, reason: OpenReason::Probe, incident, cause, .. } => match incident {
                Some(kind) => self.breaker.probe_failed(*epoch, kind, now),
                None if self.rests() || **cause == Cause::Descriptors => self.breaker.probe_abandoned(now),
                // What a proxy says with nothing behind it, or before its backends are there.
                None if cause.is_of_another() || matches!(cause, Cause::Pressure(_)) => {
                    self.breaker.probe_inconclusive(*epoch, now);
                }
                // It refused us, so it is there: what is wrong is not for a circuit to heal.
                None => self.breaker.probe_succeeded(*epoch, now),
            },
            Event::OpenFailed { epoch, incident: Some(kind), .. }
                if !self.crash().is_echo(*epoch, kind, now) =>
            {
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

/// How often a process that waits for the one before it looks whether that is over.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_lost_together_are_one_crash_and_one_opened_since_is_another() {
        let start = now();
        let mut crash = Crash::default();
        (1..=8).for_each(|epoch| crash.opening(epoch, start));
        let lost = |crash: &mut Crash, epoch, ms| crash.is_news(epoch, start + Duration::from_millis(ms));
        assert!(lost(&mut crash, 3, 0));
        for epoch in [1, 2, 4, 5, 6, 7, 8] {
            assert!(!lost(&mut crash, epoch, 10 * epoch));
        }
        crash.opening(9, start + Duration::from_millis(90));
        assert!(lost(&mut crash, 9, 100), "it was opened after the crash, and broke all the same");
        assert!(!lost(&mut crash, 7, 1_050));
        assert!(lost(&mut crash, 8, 1_100), "too late to be the same");
    }

    #[test]
    fn an_opening_that_breaks_on_a_connection_of_before_is_the_same_crash_and_the_next_is_not() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut crash = Crash::default();
        crash.opening(1, start);
        assert!(!crash.is_echo(1, "broken", start), "nothing broke before");
        crash.opening(2, at(9));
        assert!(crash.is_news(1, at(10)));
        crash.opening(3, at(20));
        assert!(crash.is_echo(2, "broken", at(30)) && crash.is_echo(3, "broken", at(30)));
        assert!(!crash.is_echo(3, "connect", at(30)), "who is refused has a new connection");
        assert!(!crash.is_echo(3, "broken", at(1_010)), "too late");
        crash.opening(4, at(120));
        assert!(!crash.is_echo(4, "broken", at(130)), "opened with the crash behind it");
    }
}
