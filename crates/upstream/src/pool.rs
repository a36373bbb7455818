//! Who may use which sessions: keys, the session budget, and an agent's seat.
//!
//! A deadpool object is one *place* in the backend's session budget, not a session: deadpool lends an object to one
//! holder, while a session is shared. A session holds its place for as long as it lives. Nothing else names
//! deadpool.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool::managed::{self, Metrics, RecycleResult, Timeouts};
use mcpool_wire::{Caller, CapabilityClass, Era, Forwarded, Hello, Outlet, Principal, Revision};

use crate::{
    catalog::Catalog,
    loan::Loans,
    merged::Merged,
    observe::Mode,
    room::{Lane, Need, Room},
    session::{Session, state::Standing},
    slot::{CallKind, Holding, NoSlot, Slot},
    sync::{Mutex, MutexGuard},
    valve::Passage,
};

/// What sessions must agree in to be interchangeable (SEMANTICS.md 3). Credential and transport are fixed per backend
/// and generation, so the generation stands for them; the protocol version is always the highest the server offers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) generation: u64,
    pub(crate) principal: Principal,
    pub(crate) affinity: Option<Arc<str>>,
    pub(crate) class: CapabilityClass,
    /// What agents sent in headers that are passed on.
    pub(crate) headers: Forwarded,
    /// Shared (also where there are no sessions), exclusive or pinned.
    pub(crate) mode: Mode,
}

/// The sessions of one key.
pub(crate) struct Pool {
    pub(crate) number: u64,
    pub(crate) key: PoolKey,
    pub(crate) catalog: Arc<Catalog>,
    /// What its agents share beside the sessions.
    pub(crate) merged: Arc<Merged>,
    /// Handshakes under way for this pool.
    pub(crate) opening: AtomicUsize,
    /// Agents that wait for the pool's first handshake to be told who the server is.
    pub(crate) greeting: AtomicUsize,
    /// Nothing is sent before this moment: the backend asked for it.
    paused: std::sync::Mutex<Option<Instant>>,
    sessions: Mutex<Vec<Arc<Session>>>,
}

impl Pool {
    pub(crate) fn new(number: u64, key: PoolKey, merged: Merged) -> Self {
        Self {
            number,
            key,
            catalog: Arc::default(),
            merged: Arc::new(merged),
            opening: AtomicUsize::new(0),
            greeting: AtomicUsize::new(0),
            paused: std::sync::Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.key.mode
    }

    pub(crate) fn lane(&self) -> Lane {
        Lane { pool: self.number, session: None, need: Need::Slot }
    }

    pub(crate) fn paused_until(&self) -> Option<Instant> {
        *self.paused.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A shorter pause does not end a longer one.
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

    /// Sessions that can be lent now or soon; those whose ladder is being climbed count as opening.
    pub(crate) fn live(&self) -> usize {
        self.lock().iter().filter(|session| session.is_live()).count()
    }

    /// Whether this session lives, so that changes announced on it are heard.
    pub(crate) fn listens(&self, epoch: u64) -> bool {
        self.lock().iter().any(|session| session.epoch == epoch && session.is_live())
    }

    /// Slots that could be leased now.
    pub(crate) fn free_slots(&self) -> usize {
        let sessions = self.lock();
        let ready = sessions.iter().filter(|session| session.standing() == Standing::Ready);
        ready.map(|session| session.free_slots()).sum()
    }

    /// Whether it has no session at all, not even one that ends.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The session an agent should keep to: the highest-ranked one that has what the call needs now, else one where
    /// it can wait for the turn to write. `holding` is of an agent that has nothing in flight on any of them.
    fn choose(
        &self,
        caller: &Caller,
        kind: CallKind,
        holding: Option<&Arc<Holding>>,
    ) -> Option<(Arc<Session>, Result<Slot, NoSlot>)> {
        let sessions = self.lock();
        let mut ranked: Vec<_> = sessions.iter().map(|s| (rank(caller.agent.0, s.epoch), s)).collect();
        ranked.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        let mut writing = None;
        for (_, session) in ranked {
            match session.try_slot(kind, holding) {
                Ok(slot) => return Some((session.clone(), Ok(slot))),
                Err(NoSlot::Full | NoSlot::Kept) => {}
                Err(NoSlot::OthersWrite) => writing = writing.or(Some(session)),
            }
        }
        Some((writing?.clone(), Err(NoSlot::OthersWrite)))
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

/// A slot an agent may use now, and the session it is on.
pub struct Lease {
    pub(crate) session: Arc<Session>,
    pub(crate) slot: Slot,
    /// After a pause calls are let through step by step, and this is one of them.
    pub(crate) passage: Option<Passage>,
}

impl Lease {
    fn new(session: Arc<Session>, slot: Slot) -> Self {
        Self { session, slot, passage: None }
    }

    /// The session, by its epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.session.epoch
    }
}

/// No slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// Wait here.
    Wait(Lane),
    /// The agent's own session is over; another one would not know what it did.
    Gone,
    /// The operator drained the backend: nothing is to be waited for.
    Drained,
}

/// Stands for the epoch of a session where every one of the pool will do; no session has it.
pub(crate) const ANY_SESSION: u64 = 0;

/// One agent's tie to a backend: which pool it draws on and which session it keeps to.
pub struct Seat {
    pub(crate) caller: Arc<Caller>,
    pub(crate) pool: Arc<Pool>,
    tie: Tie,
    /// What was last agreed with the agent: it may initialise again.
    pub(crate) revision: std::sync::Mutex<Revision>,
    /// Its name among the agents of the pool.
    pub(crate) number: u64,
    /// Keeps the agent's outlet alive for as long as the pool may want to tell it something.
    pub(crate) outlet: Arc<dyn Outlet>,
}

enum Tie {
    Shared { bound: Mutex<Option<Bound>> },
    Exclusive { loans: Arc<Loans>, reset: bool },
    Pinned { session: Arc<Session> },
}

/// The session an agent keeps to, and what it has in flight there.
struct Bound {
    session: Arc<Session>,
    holding: Arc<Holding>,
}

impl Seat {
    pub(crate) fn shared(hello: &Hello, pool: Arc<Pool>) -> Self {
        Self::new(hello, pool, Tie::Shared { bound: Mutex::new(None) })
    }

    /// A seat whose calls have a session to themselves, one after the other; with `reset` each has a fresh one.
    pub(crate) fn exclusive(hello: &Hello, pool: Arc<Pool>, reset: bool) -> Self {
        let loans = Loans::new(hello.caller.agent, &hello.outlet);
        Self::new(hello, pool, Tie::Exclusive { loans, reset })
    }

    pub(crate) fn pinned(hello: &Hello, pool: Arc<Pool>, session: Arc<Session>) -> Self {
        Self::new(hello, pool, Tie::Pinned { session })
    }

    fn new(hello: &Hello, pool: Arc<Pool>, tie: Tie) -> Self {
        let outlet = hello.outlet.clone();
        let number = pool.merged.add_agent(hello.caller.agent, &outlet);
        let revision = std::sync::Mutex::new(hello.client.revision);
        Self { caller: hello.caller.clone(), pool, tie, revision, number, outlet }
    }

    /// Takes a slot on the agent's session, binding it to one if it has none.
    pub(crate) fn try_lease(&self, kind: CallKind) -> Result<Lease, NoLease> {
        let bound = match &self.tie {
            Tie::Pinned { session } => return Self::lease_pinned(session),
            Tie::Exclusive { loans, reset } => return self.lease_exclusive(loans, *reset),
            Tie::Shared { bound } => bound,
        };
        let mut bound = bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(Bound { session, holding }) = bound.as_ref() {
            match session.standing() {
                Standing::Draining | Standing::Closed => {}
                Standing::Initializing | Standing::Ready | Standing::Suspect => {
                    let slot = session.try_slot(kind, Some(holding)).map_err(|none| none.at(session))?;
                    return Ok(Lease::new(session.clone(), slot));
                }
            }
        }
        let holding = Holding::new(self.caller.clone());
        let chosen = self.pool.choose(&self.caller, kind, Some(&holding));
        *bound = chosen.as_ref().map(|(session, _)| Bound { session: session.clone(), holding });
        let (session, slot) = chosen.ok_or(NoLease::Wait(self.pool.lane()))?;
        let slot = slot.map_err(|none| none.at(&session))?;
        Ok(Lease::new(session, slot))
    }

    fn lease_exclusive(&self, loans: &Arc<Loans>, reset: bool) -> Result<Lease, NoLease> {
        // Its session is the call's alone: there is nobody to take turns with.
        let chosen =
            self.pool.choose(&self.caller, CallKind::Free, None).ok_or(NoLease::Wait(self.pool.lane()))?;
        let (session, slot) = (chosen.0, chosen.1.map_err(|_| NoLease::Wait(self.pool.lane()))?);
        let slot = slot.with_loan(loans.lend(&session, reset));
        Ok(Lease::new(session, slot))
    }

    fn lease_pinned(session: &Arc<Session>) -> Result<Lease, NoLease> {
        match session.standing() {
            Standing::Draining | Standing::Closed => Err(NoLease::Gone),
            Standing::Initializing | Standing::Ready | Standing::Suspect => {
                // Its one agent orders its writes itself.
                let slot = session.try_slot(CallKind::Free, None).map_err(|none| none.at(session))?;
                Ok(Lease::new(session.clone(), slot))
            }
        }
    }

    /// Where this agent waits: for the session it keeps to, or for any of its pool. A write goes behind the others
    /// that wait for the turn.
    pub(crate) fn lane(&self, kind: CallKind, room: &Room) -> Lane {
        let bound = match &self.tie {
            Tie::Pinned { session } => return session.lane,
            Tie::Exclusive { .. } => return self.pool.lane(),
            Tie::Shared { bound } => bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        };
        match bound.as_ref() {
            Some(Bound { session, holding })
                if !matches!(session.standing(), Standing::Draining | Standing::Closed) =>
            {
                let turn = session.lane.needing(Need::WriteTurn);
                let in_line = || session.is_writing() || room.waiting_in(turn) > 0;
                if kind == CallKind::Write && in_line() {
                    turn
                } else if session.is_kept_from(Some(holding)) {
                    session.lane.needing(Need::OpenSlot)
                } else {
                    session.lane
                }
            }
            _ => self.pool.lane(),
        }
    }

    /// Whether this agent is served by this session, or can be from now on: it keeps to the one it has. Who has another
    /// one for each call is served by [`ANY_SESSION`] only.
    pub(crate) fn keeps_to(&self, epoch: u64) -> bool {
        let mut bound = match &self.tie {
            Tie::Pinned { session } => return session.epoch == epoch,
            Tie::Exclusive { .. } => return epoch == ANY_SESSION,
            Tie::Shared { bound } => bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        };
        if let Some(Bound { session, .. }) = bound.as_ref().filter(|bound| bound.session.is_live()) {
            return session.epoch == epoch;
        }
        let found =
            self.pool.sessions().into_iter().find(|session| session.epoch == epoch && session.is_live());
        let is_there = found.is_some();
        let holding = || Holding::new(self.caller.clone());
        *bound = found.map(|session| Bound { session, holding: holding() }).or(bound.take());
        is_there
    }

    /// The sessions that may ask this agent something: its own, or, where each call says what its agent can be asked,
    /// any it may have used.
    pub(crate) fn asking_sessions(&self) -> Vec<Arc<Session>> {
        match &self.tie {
            Tie::Pinned { .. } | Tie::Exclusive { .. } => self.own_sessions(),
            Tie::Shared { .. } => {
                let mut sessions = self.pool.sessions();
                sessions.retain(|session| session.era == Era::Modern);
                sessions
            }
        }
    }

    /// The sessions that are the agent's alone now.
    pub(crate) fn own_sessions(&self) -> Vec<Arc<Session>> {
        match &self.tie {
            Tie::Pinned { session } => vec![session.clone()],
            Tie::Exclusive { loans, .. } => loans.sessions(),
            Tie::Shared { .. } => Vec::new(),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.merged.remove_agent(self.number);
        if let Tie::Pinned { session } = &self.tie {
            session.drain(crate::observe::CloseReason::AgentGone);
        }
    }
}

/// The session budget of one backend.
pub(crate) struct Budget {
    places: managed::Pool<Places>,
    limit: usize,
}

/// A place in the budget; a session holds one for as long as it lives.
pub(crate) struct Place(#[allow(dead_code, reason = "held, given back by drop")] managed::Object<Places>);

struct Places;

impl managed::Manager for Places {
    type Type = ();
    type Error = Infallible;

    async fn create(&self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn recycle(&self, (): &mut (), _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Result<Self, String> {
        let places = managed::Pool::builder(Places)
            .max_size(limit)
            .build()
            .map_err(|e| format!("the session budget cannot be built: {e}"))?;
        Ok(Self { places, limit })
    }

    /// A place if one is free: waiting is the room's business.
    pub(crate) async fn take(&self) -> Option<Place> {
        let now = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
        self.places.timeout_get(&now).await.ok().map(Place)
    }

    /// Places taken and places there are.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let status = self.places.status();
        (status.size.saturating_sub(status.available), self.limit)
    }
}

/// Counts for as long as it lives.
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
