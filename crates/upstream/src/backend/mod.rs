//! One registered server: its session budget, its pools by key, its queue, and the requests to its connector.

mod acquire;
mod applicants;
mod attach;
mod binding;
mod control;
mod lists;
mod local_answers;
mod retire;
mod status;
pub(crate) mod traffic;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};
use mcpool_wire::{CallError, Caller, CapabilityClass, Identity};
use tokio::sync::{Notify, mpsc};

use self::applicants::Applicants;
pub(crate) use self::control::Old;
use self::control::Rebuilding;
pub use self::{
    applicants::Applicant,
    control::{Activity, Rebuild},
    lists::{ListCall, unknown_cursor},
    retire::Leaving,
    status::BackendStatus,
};
use crate::{
    backend::traffic::{TrafficControl, TrafficState},
    clock,
    config::BackendSpec,
    credential::Credential,
    kinds::Mode,
    observe::{Observe, Reporter, Source},
    pool::{
        Binding, OpenRequest, Pool, PoolKey,
        budget::Budget,
        plight::{self, Trouble},
        sharing::{Decision, SharingPolicy},
    },
    queue::{Queue, QueueLimits},
    quirks::Quirks,
    shared::SharedState,
    tasks::Tasks,
    transport::Transport,
};

/// The circuit's decision on a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Allowed.
    Free,
    /// Allowed, as the probe.
    Probe,
    /// Not before this time.
    Wait(Instant),
}

/// Gate for handshakes, implemented by the circuit. Their outcomes are reported through [`Observe`].
pub trait Gate: Send + Sync + 'static {
    /// Decides on a handshake now.
    fn may_open(&self, now: Instant) -> Opening;

    /// True if a probe is due; then a handshake is useful even without demand. Changes nothing.
    fn wants_probe(&self, now: Instant) -> bool;
}

/// One registered server.
pub struct Backend {
    pub(crate) spec: Arc<BackendSpec>,
    pub(crate) reporter: Reporter,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) transport: Arc<dyn Transport>,
    /// The credential of its transport.
    credential: Arc<dyn Credential>,
    pub(crate) budget: Budget,
    pub(crate) queue: Arc<Queue>,
    pub(crate) tasks: Tasks,
    pub(crate) policy: Arc<SharingPolicy>,
    pub(crate) quirks: Arc<Quirks>,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    next_pool: AtomicU64,
    requests: mpsc::Sender<OpenRequest>,
    pub(crate) trouble: Mutex<Option<Trouble>>,
    /// The way its registration ends, if it does.
    leaving: AtomicU8,
    /// Wakes the waiters for the end of the last session: a session or handshake may have ended.
    pub(crate) left: Notify,
    /// Duration of the last successful handshake in nanoseconds; 0 before the first.
    handshake: AtomicU64,
    pub(crate) traffic: TrafficControl,
    pub(crate) rebuilding: Mutex<Rebuilding>,
    /// Agents waiting for a session of their own.
    applicants: Arc<Applicants>,
    /// Calls of agents from the previous registration that have no binding here yet.
    followers: Arc<Applicants>,
}

impl Backend {
    /// Creates a backend without its connector, which reads the requests of the receiver.
    ///
    /// # Errors
    /// A sentence for the operator if the session budget cannot be built.
    pub(crate) fn new(
        spec: BackendSpec,
        transport: Arc<dyn Transport>,
        credential: Arc<dyn Credential>,
        gate: Arc<dyn Gate>,
        observe: Arc<dyn Observe>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<OpenRequest>), String> {
        let source = Source { id: spec.id, name: spec.name.clone() };
        let (requests, inbox) = mpsc::channel(spec.limits.queue.max(1));
        let spec = Arc::new(spec);
        let reporter = Reporter::new(source, observe);
        let backend = Arc::new(Self {
            policy: Arc::new(SharingPolicy::new(spec.clone(), reporter.clone())),
            quirks: Arc::new(Quirks::new(spec.name.clone())),
            tasks: Tasks::reporting(reporter.clone()),
            reporter,
            gate,
            transport,
            credential,
            budget: Budget::new(spec.limits.max_sessions)?,
            queue: Queue::new(QueueLimits { calls: spec.limits.queue, bytes: spec.limits.queue_bytes }),
            pools: Mutex::default(),
            next_pool: AtomicU64::new(1),
            requests,
            trouble: Mutex::new(None),
            leaving: AtomicU8::new(retire::STAYS),
            left: Notify::new(),
            handshake: AtomicU64::new(0),
            traffic: TrafficControl::default(),
            rebuilding: Mutex::default(),
            applicants: Arc::default(),
            followers: Arc::default(),
            spec,
        });
        Ok((backend, inbox))
    }

    /// Its configuration.
    #[must_use]
    pub fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn named(&self, error: CallError) -> CallError {
        error.of_backend(self.spec.name.clone())
    }

    /// Wakes the waiting calls and the connector after a change of the circuit.
    pub fn reconsider(&self) {
        self.queue.wake_all();
        self.queue.demand.notify_one();
    }

    /// True if agents bring credentials of their own. The gateway then has none, and the server's responses to one are
    /// for that agent only.
    pub(crate) fn has_keys(&self) -> bool {
        !self.spec.sharing.forward_headers.is_empty()
    }

    /// True if any session is available.
    pub(crate) fn serves_anybody(&self) -> bool {
        self.pools().iter().any(|pool| pool.live() > 0)
    }

    /// The last failed handshake that concerns this agent, if none succeeded since.
    #[must_use]
    pub fn trouble_of(&self, binding: &Binding) -> Option<Trouble> {
        self.trouble_in(&binding.pool)
    }

    pub(crate) fn trouble_in(&self, pool: &Pool) -> Option<Trouble> {
        pool.plight.trouble().or_else(|| self.trouble())
    }

    /// The last failed handshake, if none succeeded since. If agents bring credentials of their own, only a failure
    /// that concerns all, without the server's words.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        lock(&self.trouble).clone()
    }

    /// True if the handshakes for this agent are refused repeatedly and it has no session.
    #[must_use]
    pub fn is_refused(&self, binding: &Binding) -> bool {
        let is_stuck = |trouble: Trouble| trouble.is_refusal && trouble.times >= plight::REFUSALS;
        self.trouble_of(binding).is_some_and(is_stuck) && binding.pool.live() == 0
    }

    /// The mode of the next agent, interactive or not. `None` while it depends on a server not reached yet.
    #[must_use]
    pub fn mode_of(&self, interactive: bool) -> Option<Decision> {
        self.policy.decide(interactive)
    }

    pub(crate) fn handshake_took(&self, took: Duration) {
        self.handshake.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// The expected duration of the next handshake: that of the last one.
    #[must_use]
    pub fn handshake_expected(&self) -> Duration {
        match self.handshake.load(Ordering::Relaxed) {
            0 => UNKNOWN_HANDSHAKE,
            nanos => Duration::from_nanos(nanos),
        }
    }

    /// Counts a call that waits for the binding of an agent from the previous registration, until it is dropped.
    pub fn awaits_binding(&self) -> Applicant {
        self.followers.enter()
    }

    /// Ends every session and task. Returns the tasks still running at the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the sessions ending by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> std::collections::BTreeMap<&'static str, usize> {
        self.tasks.shutdown(deadline).await
    }

    /// Removes unused pools: their keys come from agents, so they must not accumulate.
    pub(crate) fn forget_empty_pools(&self) {
        let (kept, now) = (self.default_pool(), clock::now());
        // Pools are handed out under this lock only, so a pool with one owner is unused.
        lock(&self.pools).retain(|_, pool| {
            pool.number == kept.number
                || Arc::strong_count(pool) > 1
                || !pool.is_empty()
                || pool.plight.is_paused(now)
        });
    }

    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        lock(&self.pools).values().cloned().collect()
    }

    /// The pool for warm and probe sessions: neutral agents without a name.
    pub(crate) fn default_pool(&self) -> Arc<Pool> {
        let mode = self.policy.decide(false).map_or(Mode::Shared, |decision| decision.mode);
        let identity = Identity::anonymous();
        self.pool(PoolKey {
            backend: self.spec.id,
            generation: self.spec.generation,
            credential: self.credential.key(&identity),
            identity,
            affinity: None,
            class: CapabilityClass::neutral(),
            headers: Arc::default(),
            mode: keyed(mode),
        })
    }

    /// Permits of one session in this mode.
    pub(crate) fn calls_per_session(&self, mode: Mode) -> usize {
        if mode == Mode::Exclusive { 1 } else { self.spec.limits.calls_per_session }
    }

    /// Most sessions of one pool; the whole budget if each serves one agent at a time.
    pub(crate) fn sessions_of(&self, pool: &Pool) -> usize {
        let limits = &self.spec.limits;
        match (pool.mode(), &pool.key.affinity) {
            (Mode::Exclusive | Mode::Pinned, _) => limits.max_sessions,
            // An affinity value has one session.
            (_, Some(_)) => 1,
            (_, None) => {
                let known = self.policy.profile().and_then(|profile| profile.shared_sessions);
                known.unwrap_or(limits.shared_sessions).min(limits.shared_sessions)
            }
        }
    }

    /// True if the sessions of this binding carry this caller's values of the forwarded headers.
    #[must_use]
    pub fn carries(&self, binding: &Binding, caller: &Caller) -> bool {
        let given = &self.spec.sharing.forward_headers;
        let sent = caller.forwarded.iter().filter(|(name, _)| given.contains(name));
        given.is_empty() || sent.eq(binding.pool.key.headers.iter())
    }

    fn key(&self, caller: &Caller, class: CapabilityClass, mode: Mode) -> PoolKey {
        let passed =
            |(name, _): &&(HeaderName, HeaderValue)| self.spec.sharing.forward_headers.contains(name);
        PoolKey {
            backend: self.spec.id,
            generation: self.spec.generation,
            identity: caller.identity.clone(),
            credential: self.credential.key(&caller.identity),
            affinity: caller.affinity.clone(),
            class,
            headers: caller.forwarded.iter().filter(passed).cloned().collect(),
            mode: keyed(mode),
        }
    }

    /// The pool of the same key in another mode.
    pub(crate) fn pool_in(&self, key: &PoolKey, mode: Mode) -> Arc<Pool> {
        self.pool(PoolKey { mode, ..key.clone() })
    }

    fn pool(&self, key: PoolKey) -> Arc<Pool> {
        let mut pools = lock(&self.pools);
        let new = || {
            let number = self.next_pool.fetch_add(1, Ordering::Relaxed);
            let shared = SharedState::new(self.queue.clone(), self.reporter.clone(), self.spec.fan_out_logs);
            Arc::new(Pool::new(number, key.clone(), shared))
        };
        pools.entry(key.clone()).or_insert_with(new).clone()
    }
}

/// Without sessions the pool is used like a shared one.
fn keyed(mode: Mode) -> Mode {
    if mode == Mode::Stateless { Mode::Shared } else { mode }
}

/// Assumed duration of a handshake before the first success.
const UNKNOWN_HANDSHAKE: Duration = Duration::from_millis(250);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
