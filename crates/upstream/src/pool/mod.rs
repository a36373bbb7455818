//! Pools of interchangeable sessions, their keys, and the bindings of agents to them.

mod binding;
pub(crate) mod budget;
pub(crate) mod plight;
mod request;
pub(crate) mod sharing;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use mcpool_wire::{BackendId, Caller, CapabilityClass, Forwarded, Identity};

pub(crate) use self::binding::ANY_SESSION;
pub use self::binding::Binding;
use self::plight::Plight;
pub(crate) use self::request::{OpenRequest, Own};
use crate::{
    backend::traffic::ResumePermit,
    catalog::Catalog,
    credential::CredentialKey,
    early_ends::EarlyEnds,
    kinds::Mode,
    queue::{Lane, Need},
    session::{
        Session,
        permit::{AgentPermits, CallKind, CallPermit, NoPermit},
        state::Standing,
    },
    shared::SharedState,
    sync::{Mutex, MutexGuard},
};

/// Key of a pool: sessions with equal keys are interchangeable (SEMANTICS.md 3). The transport is fixed per backend and
/// generation, so the generation stands for it; the protocol version is always the highest the server offers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) backend: BackendId,
    pub(crate) generation: u64,
    pub(crate) identity: Arc<Identity>,
    /// Equal before and after a rotation.
    pub(crate) credential: CredentialKey,
    pub(crate) affinity: Option<Arc<str>>,
    pub(crate) class: CapabilityClass,
    /// Values of the agents' headers that are forwarded.
    pub(crate) headers: Forwarded,
    /// Shared (also without sessions), exclusive or pinned.
    pub(crate) mode: Mode,
}

/// The sessions of one key.
pub(crate) struct Pool {
    pub(crate) number: u64,
    pub(crate) key: PoolKey,
    pub(crate) catalog: Arc<Catalog>,
    /// The state its agents share beside the sessions.
    pub(crate) shared: Arc<SharedState>,
    /// Number of handshakes in progress.
    pub(crate) opening: AtomicUsize,
    /// Number of agents waiting for the first handshake.
    pub(crate) greeting: AtomicUsize,
    /// The failures of its handshakes.
    pub(crate) plight: Plight,
    pub(crate) early_ends: EarlyEnds,
    /// The end of the pause that the backend asked for.
    paused: std::sync::Mutex<Option<Instant>>,
    /// The epoch of the last lost session.
    last_lost: AtomicU64,
    sessions: Mutex<Vec<Arc<Session>>>,
}

impl Pool {
    pub(crate) fn new(number: u64, key: PoolKey, shared: SharedState) -> Self {
        Self {
            number,
            key,
            catalog: Arc::default(),
            shared: Arc::new(shared),
            opening: AtomicUsize::new(0),
            greeting: AtomicUsize::new(0),
            plight: Plight::default(),
            early_ends: EarlyEnds::default(),
            paused: std::sync::Mutex::default(),
            last_lost: AtomicU64::new(0),
            sessions: Mutex::default(),
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.key.mode
    }

    pub(crate) fn lane(&self) -> Lane {
        Lane { pool: self.number, session: None, need: Need::Permit }
    }

    pub(crate) fn paused_until(&self) -> Option<Instant> {
        *self.paused.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Extends the pause; a shorter one does not end a longer one.
    pub(crate) fn pause_until(&self, until: Instant) {
        let mut paused = self.paused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *paused = (*paused).max(Some(until));
    }

    pub(crate) fn add(&self, session: Arc<Session>) {
        self.lock().push(session);
    }

    pub(crate) fn remove(&self, epoch: u64) {
        self.lock().retain(|session| session.epoch != epoch);
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.lock().clone()
    }

    /// The number of sessions available now or soon. Those in their handshake count as opening.
    pub(crate) fn live(&self) -> usize {
        self.lock().iter().filter(|session| session.is_live()).count()
    }

    /// True if this session is live, so that its announcements are heard.
    pub(crate) fn listens(&self, epoch: u64) -> bool {
        self.live_session(epoch).is_some()
    }

    fn live_session(&self, epoch: u64) -> Option<Arc<Session>> {
        self.lock().iter().find(|session| session.epoch == epoch && session.is_live()).cloned()
    }

    /// The number of free permits.
    pub(crate) fn free_permits(&self) -> usize {
        let sessions = self.lock();
        let ready = sessions.iter().filter(|session| session.standing() == Standing::Ready);
        ready.map(|session| session.free_permits()).sum()
    }

    /// Marks the other sessions as suspect after the backend lost one: it may have lost all, and a repeated call must
    /// not meet the next lost one.
    pub(crate) fn doubt_others(&self, lost: u64) {
        if self.mode() == Mode::Pinned || self.last_lost.swap(lost, Ordering::AcqRel) == lost {
            return;
        }
        self.lock().iter().filter(|session| session.epoch != lost).for_each(|session| session.look());
    }

    /// True if it has no session at all, not even one that ends.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The session for an agent: the highest-ranked one with what the call needs now, else one where it can wait for
    /// the write turn. `agent_permits` has none in flight on any of them.
    fn choose(
        &self,
        caller: &Caller,
        kind: CallKind,
        agent_permits: Option<&Arc<AgentPermits>>,
    ) -> Option<(Arc<Session>, Result<CallPermit, NoPermit>)> {
        let sessions = self.lock();
        let mut ranked: Vec<_> = sessions.iter().map(|s| (rank(caller.agent.0, s.epoch), s)).collect();
        ranked.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        let mut writing = None;
        for (_, session) in ranked {
            match session.try_permit(kind, agent_permits) {
                Ok(permit) => return Some((session.clone(), Ok(permit))),
                Err(NoPermit::Full | NoPermit::Kept) => {}
                Err(NoPermit::OthersWrite) => writing = writing.or(Some(session)),
            }
        }
        Some((writing?.clone(), Err(NoPermit::OthersWrite)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Rendezvous weight of an agent on a session (splitmix64 finaliser).
fn rank(agent: u64, epoch: u64) -> u64 {
    let mut x = agent ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A permit of an agent, and its session.
pub struct Lease {
    pub(crate) session: Arc<Session>,
    pub(crate) permit: CallPermit,
    /// The permit of a slow start after a pause.
    pub(crate) resume_permit: Option<ResumePermit>,
}

impl Lease {
    fn new(session: Arc<Session>, permit: CallPermit) -> Self {
        Self { session, permit, resume_permit: None }
    }

    /// The epoch of the session.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.session.epoch
    }

    /// The opening time of the session.
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.session.opened
    }
}

/// The reason for no permit, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// Wait in this lane.
    Wait(Lane),
    /// The agent's own session is closed; another one would lack its state.
    Gone,
    /// The operator drained the backend; do not wait.
    Drained,
}

impl NoPermit {
    /// The lane to wait in.
    fn at(self, session: &Session) -> NoLease {
        NoLease::Wait(session.lane.needing(match self {
            Self::Full => Need::Permit,
            Self::Kept => Need::OpenPermit,
            Self::OthersWrite => Need::WriteTurn,
        }))
    }
}

/// Increments a counter of the pool until it is dropped.
pub(crate) struct Counted(pub(crate) Arc<Pool>, pub(crate) fn(&Pool) -> &AtomicUsize);

impl Counted {
    pub(crate) fn new(pool: &Arc<Pool>, counter: fn(&Pool) -> &AtomicUsize) -> Self {
        counter(pool).fetch_add(1, Ordering::AcqRel);
        Self(pool.clone(), counter)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::AcqRel);
    }
}
