//! State shared by every part of one front, independent of the backends.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;
use futures::future::BoxFuture;
use mcpool_wire::{AgentKey, CallError, CallTrace, ErrorKind, Executed, Method, RequestId, Slot};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{FrontConfig, FrontLimits, FrontTimes},
    host_policy::HostPolicy,
    limits::{gauges::Gauges, memory::MemoryAccount, per_principal::Principals, places::DetachedPermit},
    observe::{CallEnd, FrontEvent, FrontObserve, Outcome},
    session_id::{
        AgentSessionId,
        age::Expiry,
        revoked::{Revocation, RevocationList},
        revoked_file::RevocationWriter,
        seal::{Binding, Claims, fingerprint_of},
    },
    stream::connection::ConnectionState,
};

pub(crate) struct Common {
    in_force: ArcSwap<InForce>,
    pub(crate) observe: Arc<dyn FrontObserve>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) memory: Arc<MemoryAccount>,
    /// Open connections by number, for load shedding.
    pub(crate) connections: DashMap<u64, Arc<ConnectionState>>,
    pub(crate) principals: Arc<Principals>,
    /// The way of calls to the task of detached calls.
    pub(crate) detached: mpsc::Sender<DetachedCall>,
    /// Cancelled when everything must end at once.
    pub(crate) kill: CancellationToken,
    /// Decides which ids have expired.
    pub(crate) expiry: Expiry,
    pub(crate) revocations: RevocationList,
    /// Cancelled when the drain begins: no new work, running calls may end.
    pub(crate) draining: CancellationToken,
    /// Connections accepted since the drain began.
    pub(crate) late: AtomicUsize,
    /// The replica this is.
    pub(crate) slot: Slot,
    warned: AtomicBool,
    requests: AtomicU64,
    agents: AtomicU64,
    accepted: AtomicU64,
    epoch: Instant,
}

/// One entry of detached calls on its way to their task, with its permit.
pub(crate) struct DetachedCall {
    pub(crate) run: BoxFuture<'static, ()>,
    /// Cleans up if the task panics.
    pub(crate) on_panic: Box<dyn FnOnce() + Send>,
    pub(crate) permit: DetachedPermit,
}

/// The configuration in force. It can be replaced at run time: what exists keeps the values it has copied, and whatever
/// begins later uses the new ones.
pub(crate) struct InForce {
    pub(crate) config: FrontConfig,
    pub(crate) hosts: HostPolicy,
}

impl InForce {
    fn new(config: FrontConfig) -> Self {
        Self { hosts: HostPolicy::new(&config), config }
    }
}

impl Common {
    pub(crate) fn new(
        config: FrontConfig,
        observe: Arc<dyn FrontObserve>,
        gauges: Arc<Gauges>,
        detached: mpsc::Sender<DetachedCall>,
    ) -> (Self, Option<RevocationWriter>) {
        let expiry = Expiry::new(config.sessions.clock.clone(), config.times.session_lifetime);
        gauges.set_limits(&config.limits);
        let slot = config.sessions.slot;
        let (deleted, limit) = (config.sessions.deleted.as_deref(), config.limits.deleted_sessions);
        let (revocations, writer) = RevocationList::open(deleted, limit, expiry.now());
        let memory =
            MemoryAccount::new(config.limits.buffered_bytes, Arc::clone(&gauges), Arc::clone(&observe));
        let common = Self {
            expiry,
            revocations,
            principals: Principals::new(config.limits.calls_per_principal),
            in_force: ArcSwap::from_pointee(InForce::new(config)),
            observe,
            gauges,
            memory,
            connections: DashMap::new(),
            detached,
            kill: CancellationToken::new(),
            draining: CancellationToken::new(),
            late: AtomicUsize::new(0),
            warned: AtomicBool::new(false),
            requests: AtomicU64::new(RequestId::first(slot, rand::random()).0),
            slot,
            agents: AtomicU64::new(1),
            accepted: AtomicU64::new(0),
            epoch: Instant::now(),
        };
        (common, writer)
    }

    /// The configuration in force. Do not keep the guard: it delays the next change.
    pub(crate) fn in_force(&self) -> Guard<Arc<InForce>> {
        self.in_force.load()
    }

    pub(crate) fn limits(&self) -> FrontLimits {
        self.in_force.load().config.limits
    }

    pub(crate) fn times(&self) -> FrontTimes {
        self.in_force.load().config.times
    }

    pub(crate) fn apply(&self, config: FrontConfig) {
        self.gauges.set_limits(&config.limits);
        self.in_force.store(Arc::new(InForce::new(config)));
    }

    pub(crate) fn request_id(&self) -> RequestId {
        RequestId(self.requests.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn agent_key(&self) -> AgentKey {
        AgentKey(self.agents.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn connection_number(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn emit(&self, event: &FrontEvent<'_>) {
        self.observe.on(event);
    }

    /// Counts a refusal: one of [`REFUSALS`](crate::observe::REFUSALS).
    pub(crate) fn refused(&self, kind: &'static str) {
        self.gauges.note_refusal(kind);
        self.emit(&FrontEvent::Refused { kind });
    }

    pub(crate) fn dropped(&self, kind: &'static str) {
        self.emit(&FrontEvent::Dropped { kind });
    }

    /// Reports an `Authorization` header that is not forwarded.
    pub(crate) fn authorization_ignored(&self) {
        self.emit(&FrontEvent::AuthorizationIgnored);
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("an agent sends an Authorization header, which is not forwarded (said once)");
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    pub(crate) fn start_draining(&self) {
        self.draining.cancel();
    }

    /// Revokes a session id. Returns the revocation to await if the id could have been restored.
    pub(crate) fn revoke(&self, id: AgentSessionId, binding: &Binding<'_>) -> Option<Revocation> {
        let claims = self.in_force().config.sessions.keys.open(id, binding).filter(Claims::is_restorable)?;
        let one = Revocation { issued: claims.issued, fingerprint: fingerprint_of(id) };
        self.revocations.revoke(one, self.expiry.expired());
        Some(one)
    }

    /// Milliseconds since this front began: a clock that fits an atomic.
    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The end of a call, to be reported.
pub(crate) struct Ending<'a> {
    pub(crate) agent: AgentKey,
    pub(crate) request_id: RequestId,
    pub(crate) method: &'a Method,
    pub(crate) target: &'a str,
    pub(crate) trace: &'a CallTrace,
}

impl Ending<'_> {
    pub(crate) fn report(&self, common: &Common, outcome: Outcome, error: Option<&CallError>) {
        let executed = error.map_or_else(|| self.trace.executed(), |error| error.executed);
        common.emit(&FrontEvent::CallEnded(CallEnd {
            agent: self.agent,
            request_id: self.request_id,
            method: self.method,
            backend: self.trace.served_by().unwrap_or(self.target),
            target: self.target,
            outcome,
            executed,
            trace: self.trace,
            error,
            took: self.trace.started.elapsed(),
        }));
    }

    /// Reports a call that was refused before anything was tried.
    pub(crate) fn refused(&self, common: &Common, error: &CallError) {
        self.report(common, outcome_of(error), Some(error));
    }
}

/// The metric label of a failure.
pub(crate) fn outcome_of(error: &CallError) -> Outcome {
    match error.kind {
        ErrorKind::Deadline | ErrorKind::QueueTimeout => Outcome::Timeout,
        ErrorKind::Cancelled => Outcome::Cancelled,
        ErrorKind::Lost | ErrorKind::ProtocolViolation | ErrorKind::TooLarge => Outcome::Lost,
        ErrorKind::Unavailable if error.executed != Executed::No => Outcome::Lost,
        ErrorKind::Unavailable
        | ErrorKind::Overloaded
        | ErrorKind::CircuitOpen
        | ErrorKind::NotRoutable
        | ErrorKind::Draining
        | ErrorKind::Denied
        | ErrorKind::MethodNotFound
        | ErrorKind::InvalidParams
        | ErrorKind::InvalidRequest => Outcome::Rejected,
    }
}
