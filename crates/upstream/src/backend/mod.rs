//! One registered server: its session budget, its pools by key, its queue, and the connector that feeds them.

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

/// Whether a handshake may be tried now: the circuit's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Yes.
    Free,
    /// Yes, this one, as the probe.
    Probe,
    /// Not before this moment.
    Wait(Instant),
}

/// Asked before every handshake; its outcome is reported through [`Observe`].
pub trait Gate: Send + Sync + 'static {
    /// May a handshake be tried now?
    fn may_open(&self, now: Instant) -> Opening;

    /// Whether it waits for a probe: then a handshake is of use even if nobody wants a session. Changes nothing.
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
    /// Whether and how its registration ends.
    leaving: AtomicU8,
    /// A session or a handshake may have ended: told to who waits for the last one.
    pub(crate) left: Notify,
    /// Nanoseconds the last handshake took that succeeded; 0 while there was none.
    handshake: AtomicU64,
    pub(crate) traffic: TrafficControl,
    pub(crate) rebuilding: Mutex<Rebuilding>,
    /// Agents that wait for a session of their own.
    applicants: Arc<Applicants>,
    /// Calls of agents that come from the registration before and have no binding here yet.
    followers: Arc<Applicants>,
}

impl Backend {
    /// A backend without its connector, which takes the requests of the receiver.
    ///
    /// # Errors
    /// A sentence for the operator when the session budget cannot be built.
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

    /// What it is configured to be.
    #[must_use]
    pub fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn named(&self, error: CallError) -> CallError {
        error.of_backend(self.spec.name.clone())
    }

    /// Something changed that those who wait should know: the circuit opened or closed.
    pub fn reconsider(&self) {
        self.queue.wake_all();
        self.queue.demand.notify_one();
    }

    /// Whether its agents bring credentials of their own: then the gateway has none, and what the server says to one of
    /// them is for that one alone.
    pub(crate) fn has_keys(&self) -> bool {
        !self.spec.sharing.forward_headers.is_empty()
    }

    /// Whether any session can be lent.
    pub(crate) fn serves_anybody(&self) -> bool {
        self.pools().iter().any(|pool| pool.live() > 0)
    }

    /// Why the last handshake failed of those that concern this agent, while none has succeeded since.
    #[must_use]
    pub fn trouble_of(&self, binding: &Binding) -> Option<Trouble> {
        self.trouble_in(&binding.pool)
    }

    pub(crate) fn trouble_in(&self, pool: &Pool) -> Option<Trouble> {
        pool.plight.trouble().or_else(|| self.trouble())
    }

    /// Why the last handshake failed, while none has succeeded since. Where agents bring credentials of their own only
    /// what concerns them all, in no server's words.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        lock(&self.trouble).clone()
    }

    /// Whether the handshakes this agent waits for are refused, again and again, and there is no session for it.
    #[must_use]
    pub fn is_refused(&self, binding: &Binding) -> bool {
        let is_stuck = |trouble: Trouble| trouble.is_refusal && trouble.times >= plight::REFUSALS;
        self.trouble_of(binding).is_some_and(is_stuck) && binding.pool.live() == 0
    }

    /// The mode of the next agent that can be asked things, or cannot; nothing while the server was never reached and
    /// it depends on it.
    #[must_use]
    pub fn mode_of(&self, interactive: bool) -> Option<Decision> {
        self.policy.decide(interactive)
    }

    pub(crate) fn handshake_took(&self, took: Duration) {
        self.handshake.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// How long the next handshake will take, if it is like the last one.
    #[must_use]
    pub fn handshake_expected(&self) -> Duration {
        match self.handshake.load(Ordering::Relaxed) {
            0 => UNKNOWN_HANDSHAKE,
            nanos => Duration::from_nanos(nanos),
        }
    }

    /// A call waits here for a binding of its agent, which comes from the registration before; counted until it is dropped.
    pub fn awaits_binding(&self) -> Applicant {
        self.followers.enter()
    }

    /// Ends every session and task; names the tasks that still run at the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the sessions ending by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> std::collections::BTreeMap<&'static str, usize> {
        self.tasks.shutdown(deadline).await
    }

    /// Forgets pools nobody uses: their keys come from what agents say, so they must not pile up.
    pub(crate) fn forget_empty_pools(&self) {
        let (kept, now) = (self.default_pool(), clock::now());
        // Nobody gets hold of a pool but under this lock, so a pool with one owner has no user.
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

    /// The pool that is kept warm and probed with: neutral agents without a name.
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

    /// Calls in flight on one session of this mode.
    pub(crate) fn calls_per_session(&self, mode: Mode) -> usize {
        if mode == Mode::Exclusive { 1 } else { self.spec.limits.calls_per_session }
    }

    /// Most sessions of one pool: the budget where each serves one agent at a time.
    pub(crate) fn sessions_of(&self, pool: &Pool) -> usize {
        let limits = &self.spec.limits;
        match (pool.mode(), &pool.key.affinity) {
            (Mode::Exclusive | Mode::Pinned, _) => limits.max_sessions,
            // One affinity value keeps to one session.
            (_, Some(_)) => 1,
            (_, None) => {
                let known = self.policy.profile().and_then(|profile| profile.shared_sessions);
                known.unwrap_or(limits.shared_sessions).min(limits.shared_sessions)
            }
        }
    }

    /// Whether the sessions of this binding carry what this caller sends in the headers the backend is given.
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

    /// The pool of the same agents in another mode.
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

/// Where there are no sessions, what stands for them is used like a shared one.
fn keyed(mode: Mode) -> Mode {
    if mode == Mode::Stateless { Mode::Shared } else { mode }
}

/// Stands in for the time of a handshake while none has succeeded.
const UNKNOWN_HANDSHAKE: Duration = Duration::from_millis(250);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
