//! The set of running backends: builds each backend's circuit, sessions and stack, and connects them.
//!
//! Backend events feed incidents and successes to the circuit; the connector asks the circuit before each handshake;
//! every transition wakes waiting calls. A new configuration replaces the set as one snapshot; `retire.rs` ends what it
//! removed or replaced.

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
    Backend, BackendSpec, Cause, Credential, Endpoint, Event, Gate, Leaving, Observe, OpenReason, Opening,
    Source, StaticHeaders, Traffic,
    transport::{Transport, transport},
};
use mcpool_wire::BackendId;
use tokio_util::sync::CancellationToken;

use crate::{
    link::Links,
    retire::Retirements,
    route::{Registered, Registry, Router},
    stack::{RetrySettings, StackObserve, backend_stack, now},
};

/// The configuration of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSettings {
    /// Address, transport, limits and times.
    pub spec: BackendSpec,
    /// Circuit breaker settings.
    pub breaker: mcpool_breaker::Settings,
    /// Retry settings.
    pub retry: RetrySettings,
}

/// Observer of events behind the front.
pub trait GatewayObserve: Observe {
    /// The observer of one backend's stack.
    fn stack(&self, backend: &Source) -> Arc<dyn StackObserve>;

    /// A circuit changed its state.
    fn transition(&self, backend: &Source, transition: &Transition);

    /// A registration was removed or replaced and now finishes its calls.
    fn leaves(&self, _old: &Registered) {}

    /// The last registration of this name has ended.
    fn gone(&self, _name: &str) {}
}

/// The running backends.
pub struct Gateway {
    registry: Arc<ArcSwap<Registry>>,
    links: Arc<Links>,
    retirements: Retirements,
    observe: Arc<dyn GatewayObserve>,
    /// The id of the next new backend.
    next_id: AtomicU32,
}

/// The effect of a new configuration, by backend name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New names.
    pub added: Vec<Arc<str>>,
    /// Names with a different configuration.
    pub changed: Vec<Arc<str>>,
    /// Removed names.
    pub removed: Vec<Arc<str>>,
    /// The number of unchanged backends.
    pub kept: usize,
}

impl Gateway {
    /// Starts every backend. None has to be up: the gateway connects when needed.
    ///
    /// # Errors
    /// One sentence for the operator if a backend cannot be set up (unusable CA file, ...).
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
        let retirements = Retirements::start(registry.clone(), links.clone(), observe.clone());
        Ok(Self { registry, links, retirements, observe, next_id: AtomicU32::new(next_id) })
    }

    /// Applies a new set of backends without failing a call: unchanged ones continue, others start or retire. Calls
    /// must not overlap.
    ///
    /// # Errors
    /// One sentence for the operator if a backend cannot be set up; then nothing has changed.
    ///
    /// # Cancel safety
    /// The new set is in force even if the future is dropped while it waits.
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
                self.retirements.begin(old.clone(), why).await;
            }
        }
        Ok(changes)
    }

    /// The router for the front.
    #[must_use]
    pub fn router(&self) -> Router {
        Router::new(self.registry.clone(), self.links.clone())
    }

    /// All backends, sorted by name.
    #[must_use]
    pub fn backends(&self) -> Vec<Arc<Registered>> {
        self.registry.load().backends.values().cloned().collect()
    }

    /// Retiring registrations that still have sessions, oldest first.
    #[must_use]
    pub fn leaving(&self) -> Vec<Arc<Registered>> {
        self.retirements.retiring()
    }

    /// The backend behind `/mcp` and `/sse`.
    #[must_use]
    pub fn default_backend(&self) -> Option<Arc<str>> {
        self.registry.load().default.clone()
    }

    /// Ends every session. Returns what still runs at the deadline.
    ///
    /// # Cancel safety
    /// If the future is dropped, the sessions still end by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        let all = self.backends().into_iter().chain(self.leaving());
        let ends = all.map(|registered| async move {
            let left = registered.backend.shutdown(deadline).await;
            left.into_iter().map(|(task, n)| format!("{n} {task} of {}", registered.name)).collect::<Vec<_>>()
        });
        let (left, ()) = futures::join!(futures::future::join_all(ends), self.retirements.stop(deadline));
        left.into_iter().flatten().collect()
    }
}

/// The next set of backends, before it is applied.
#[derive(Default)]
struct Next {
    backends: BTreeMap<Arc<str>, Arc<Registered>>,
    changes: Changes,
    started: Vec<Arc<Registered>>,
}

impl Next {
    /// Adds a backend: reuses the registration if its configuration is unchanged, else starts a new one.
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

    /// Shuts down the backends started for this set, which is discarded because another failed to start.
    async fn give_up(self) {
        for one in self.started {
            one.backend.shutdown(Duration::ZERO).await;
        }
    }
}

/// The backend behind `/mcp` and `/sse`: the configured default, else the only backend.
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
    let woken: Arc<OnceLock<Weak<Backend>>> = Arc::default();
    let woken_by = woken.clone();
    let reconsider = move || {
        if let Some(backend) = woken_by.get().and_then(Weak::upgrade) {
            backend.reconsider();
        }
    };
    // Jitter keeps replicas from probing a backend at the same moment.
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
    // A program restarts only after its predecessor ends, as both could write the same file.
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
    // Created before the first event, so that none is lost.
    let observed = observe.stack(&source);
    let backend = Backend::start(spec, transport, credential, gate, feed)
        .map_err(|why| format!("backend {name:?}: {why}"))?;
    let _ = woken.set(Arc::downgrade(&backend));
    // Pause and drain apply to the name: a new configuration does not revert them.
    match before.map(|old| old.backend.traffic()) {
        Some(Traffic::Paused) => backend.pause(),
        Some(Traffic::Drained) => backend.drain(),
        Some(Traffic::Flowing | Traffic::Resuming) | None => {}
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

/// Gate that asks the circuit before each handshake.
struct BreakerGate {
    breaker: Breaker,
    /// The predecessor whose sessions must end first.
    after: Option<After>,
}

/// The previous process of a program, and how long to wait for its calls: shorter than `queue`, so that calls waiting
/// for the new process do not time out.
struct After {
    backend: Weak<Backend>,
    calls: Instant,
    /// The wait for writes is longer: concurrent writes are worse than a delay.
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

/// Observer that feeds the circuit with session events and forwards all events.
struct Feed {
    breaker: Breaker,
    backend: Arc<OnceLock<Weak<Backend>>>,
    crash: Mutex<Crash>,
    next: Arc<dyn GatewayObserve>,
}

/// Groups the losses of one crash. A crashing backend loses its sessions within moments, which is one incident. The
/// next session may be opened on an old connection whose end the client has not noticed, and break too: the same crash.
#[derive(Debug, Default)]
struct Crash {
    /// The last counted crash: its time and the newest session at that time.
    counted: Option<(Instant, u64)>,
    /// The newest session.
    newest: u64,
    /// The newest session opened while stale connections were still possible.
    hurried: u64,
}

impl Crash {
    fn opening(&mut self, epoch: u64, now: Instant) {
        self.newest = self.newest.max(epoch);
        if self.counted.is_some_and(|(at, _)| now.saturating_duration_since(at) < STALE) {
            self.hurried = self.newest;
        }
    }

    /// True if a failed opening belongs to the counted crash.
    fn is_echo(&self, epoch: u64, kind: &str, now: Instant) -> bool {
        let is_soon = |at| now.saturating_duration_since(at) < ONE_CRASH;
        kind == "broken" && epoch <= self.hurried && self.counted.is_some_and(|(at, _)| is_soon(at))
    }

    /// True if the loss of this session is a new crash; counts it.
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

/// Time within which losses belong to one crash.
const ONE_CRASH: Duration = Duration::from_secs(1);
/// Time within which idle connections of before the crash may be reused. Shorter than two pauses between handshakes, so
/// that a backend which breaks every handshake is still detected.
const STALE: Duration = Duration::from_millis(100);

impl Feed {
    /// True if the backend is paused or drained; a failed probe then proves nothing.
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
                // A proxy answered without its backend.
                None if cause.is_of_another() || matches!(cause, Cause::Pressure(_)) => {
                    self.breaker.probe_inconclusive(*epoch, now);
                }
                // The backend rejected the handshake, so it is up; a circuit cannot heal the cause.
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

/// Interval at which a new process checks whether its predecessor has ended.
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
