//! The one task of a backend that opens sessions and keeps the pools in shape. Callers wait in the room and share
//! its handshakes, so fifty waiters open one session and a caller that leaves cancels nothing.
//!
//! It wakes on demand (a caller waits, an agent wants a session of its own, a place came back), when a handshake
//! ends, and once a second for upkeep: warm sessions, idle and old ones.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use backon::BackoffBuilder as _;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use mcpool_wire::{Outlet, ServerHello};
use tokio::sync::{mpsc, oneshot};

use crate::{
    backend::{Backend, Opening, Trouble, lock},
    clock,
    error::{Cause, SendError},
    observe::{CloseReason, Event, Mode, OpenReason},
    pool::{Counted, Place, Pool},
    session::{
        Session, SessionParts,
        driver::{Driver, MAX_ERRANDS},
        ladder,
        state::Standing,
    },
};

/// Longest pause between handshakes while somebody waits, and while nobody does.
const PAUSE_WAITED: Duration = Duration::from_millis(500);
const PAUSE_IDLE: Duration = Duration::from_secs(5);
/// Pause after the backend said it is at its limit, where it named none.
const PAUSE_PRESSURE: Duration = Duration::from_secs(1);
const MAX_PRESSURE: Duration = Duration::from_secs(60);
/// How often idle and old sessions are looked for.
const UPKEEP: Duration = Duration::from_secs(1);

static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// An agent that wants a session of its own.
pub(crate) struct OpenRequest {
    pub(crate) pool: Arc<Pool>,
    pub(crate) owner: Weak<dyn Outlet>,
    pub(crate) reply: oneshot::Sender<Arc<Session>>,
}

pub(crate) struct Opener {
    backend: Arc<Backend>,
    inbox: mpsc::Receiver<OpenRequest>,
    waiting: VecDeque<OpenRequest>,
    openings: FuturesUnordered<BoxFuture<'static, Attempt>>,
    not_before: Option<Instant>,
    gate_at: Option<Instant>,
}

/// A handshake that ended.
struct Attempt {
    request: Option<OpenRequest>,
    outcome: Result<Arc<Session>, SendError>,
}

/// What the next handshake is for.
struct Wanted {
    pool: Arc<Pool>,
    reason: OpenReason,
    request: Option<OpenRequest>,
}

impl Opener {
    pub(crate) fn new(backend: Arc<Backend>, inbox: mpsc::Receiver<OpenRequest>) -> Self {
        Self {
            backend,
            inbox,
            waiting: VecDeque::new(),
            openings: FuturesUnordered::new(),
            not_before: None,
            gate_at: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let stop = self.backend.tasks.stopping();
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.open_what_is_wanted().await;
            let next = [self.not_before, self.gate_at].into_iter().flatten().min();
            let timer = OptionFuture::from(next.map(|at| tokio::time::sleep_until(clock::at(at))));
            let opened = OptionFuture::from((!self.openings.is_empty()).then(|| self.openings.next()));
            tokio::select! {
                () = stop.cancelled() => break,
                Some(request) = self.inbox.recv() => self.waiting.push_back(request),
                () = self.backend.demand.notified() => {}
                Some(Some(attempt)) = opened => self.settle(attempt),
                Some(()) = timer => self.forget_past_pauses(),
                _ = upkeep.tick() => self.upkeep(),
            }
        }
        for pool in self.backend.pools() {
            for session in pool.sessions() {
                session.drain(CloseReason::Shutdown);
            }
        }
    }

    fn forget_past_pauses(&mut self) {
        let now = clock::now();
        self.not_before = self.not_before.filter(|at| *at > now);
        self.gate_at = self.gate_at.filter(|at| *at > now);
    }

    async fn open_what_is_wanted(&mut self) {
        self.gate_at = None;
        while self.openings.len() < self.backend.spec.limits.max_creating {
            let now = clock::now();
            if self.not_before.is_some_and(|at| at > now) {
                return;
            }
            self.not_before = None;
            let Some(wanted) = self.wanted() else { return };
            let Some(place) = find_place(&self.backend, &wanted.pool).await else {
                self.put_back(wanted);
                return;
            };
            let reason = match self.backend.gate.may_open(now) {
                Opening::Free => wanted.reason,
                Opening::Probe => OpenReason::Probe,
                Opening::Wait(at) => {
                    self.gate_at = Some(at.max(now + Duration::from_millis(1)));
                    self.put_back(wanted);
                    return;
                }
            };
            let counted = Counted::new(&wanted.pool, |pool| &pool.opening);
            self.openings.push(attempt(self.backend.clone(), wanted, reason, place, counted).boxed());
        }
    }

    fn put_back(&mut self, wanted: Wanted) {
        if let Some(request) = wanted.request {
            self.waiting.push_front(request);
        }
    }

    /// What to open next: for who waits for the pool everybody shares, for an agent of its own, for warmth.
    fn wanted(&mut self) -> Option<Wanted> {
        let limits = &self.backend.spec.limits;
        for pool in self.backend.pools() {
            if pool.mode() != Mode::Shared {
                continue;
            }
            let opening = pool.opening.load(Ordering::Acquire);
            let greeting = pool.greeting.load(Ordering::Acquire);
            let waiting = self.backend.room.waiting_for(pool.number);
            let live = pool.live();
            // One affinity value keeps to one session.
            let most = if pool.key.affinity.is_some() { 1 } else { limits.shared_sessions };
            let first = greeting > 0 && live + opening == 0;
            let more = waiting > opening * limits.calls_per_session;
            if live + opening < most && (first || more) {
                return Some(Wanted { pool, reason: OpenReason::Demand, request: None });
            }
        }
        while let Some(request) = self.waiting.pop_front() {
            if request.reply.is_closed() {
                continue;
            }
            let pool = request.pool.clone();
            return Some(Wanted { pool, reason: OpenReason::Pinned, request: Some(request) });
        }
        let warm = self.backend.default_pool();
        if warm.mode() == Mode::Shared
            && warm.live() + warm.opening.load(Ordering::Acquire)
                < limits.min_idle.min(limits.shared_sessions)
        {
            return Some(Wanted { pool: warm, reason: OpenReason::Warm, request: None });
        }
        None
    }

    fn settle(&mut self, attempt: Attempt) {
        match attempt.outcome {
            Ok(session) => {
                *lock(&self.backend.trouble) = None;
                if let Some(request) = attempt.request
                    && request.reply.send(session.clone()).is_err()
                {
                    session.drain(CloseReason::AgentGone);
                }
            }
            Err(error) => {
                self.pause(&error);
                if let Some(request) = attempt.request {
                    self.waiting.push_front(request);
                }
            }
        }
    }

    fn pause(&mut self, error: &SendError) {
        let now = clock::now();
        let times = {
            let mut trouble = lock(&self.backend.trouble);
            let times = trouble.as_ref().map_or(1, |t| t.times.saturating_add(1));
            *trouble = Some(Trouble { why: error.to_string(), since: now, times });
            times
        };
        let waited = self.backend.room.waiting() > 0
            || !self.waiting.is_empty()
            || self.backend.pools().iter().any(|p| p.greeting.load(Ordering::Acquire) > 0);
        let pause = match &error.cause {
            Cause::Pressure(refusal) => refusal.retry_after.unwrap_or(PAUSE_PRESSURE).min(MAX_PRESSURE),
            _ => backoff(times, if waited { PAUSE_WAITED } else { PAUSE_IDLE }),
        };
        self.not_before = Some(now + pause);
    }

    fn upkeep(&self) {
        let spec = &self.backend.spec;
        for pool in self.backend.pools() {
            let keep = if pool.mode() == Mode::Shared { spec.limits.min_idle } else { usize::MAX };
            let mut live = pool.live();
            for session in pool.sessions() {
                if session.standing() != Standing::Ready {
                    continue;
                }
                if session.age() >= session.max_age(spec.times.max_age) {
                    // A pinned session is its agent's state: it is not replaced behind the agent's back.
                    if pool.mode() == Mode::Shared {
                        session.drain(CloseReason::MaxAge);
                    }
                } else if live > keep && session.idle_for() >= spec.times.idle {
                    live -= 1;
                    session.drain(CloseReason::Idle);
                }
            }
        }
    }
}

/// A place in the budget; where there is none, an idle session of another key is asked to leave.
async fn find_place(backend: &Backend, pool: &Arc<Pool>) -> Option<Place> {
    if let Some(place) = backend.budget.take().await {
        return Some(place);
    }
    let others = backend.pools().into_iter().filter(|other| other.number != pool.number);
    let idle = others
        .filter(|other| other.mode() == Mode::Shared)
        .flat_map(|other| other.sessions())
        .filter(|session| session.standing() == Standing::Ready && session.in_flight() == 0)
        .max_by_key(|session| session.idle_for());
    if let Some(session) = idle {
        session.drain(CloseReason::Evicted);
    }
    None
}

/// Exponential with full jitter, from 50 ms.
fn backoff(times: u32, cap: Duration) -> Duration {
    let steps = usize::try_from(times.min(16)).unwrap_or(16);
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(cap / 2)
        .with_max_times(steps)
        .with_jitter()
        .build()
        .nth(steps - 1)
        .unwrap_or(cap)
        .min(cap)
}

/// One handshake from connect to ready, under one deadline.
async fn attempt(
    backend: Arc<Backend>,
    wanted: Wanted,
    reason: OpenReason,
    place: Place,
    _counted: Counted,
) -> Attempt {
    let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
    let started = clock::now();
    backend.reporter.on(Event::Opening { epoch, reason });
    let owner = wanted.request.as_ref().map(|request| request.owner.clone());
    let climb = climb(&backend, &wanted.pool, epoch, owner, place);
    let outcome = match tokio::time::timeout(backend.spec.times.handshake, climb).await {
        Ok(outcome) => outcome,
        Err(_) => Err(SendError::maybe_sent(Cause::Timeout("the handshake"))),
    };
    match &outcome {
        Ok(session) => backend.reporter.on(Event::Opened {
            epoch,
            mode: session.mode,
            reason,
            started,
            transport: session.transport_name(),
        }),
        Err(error) => backend.reporter.on(Event::OpenFailed {
            epoch,
            reason,
            incident: error.cause.incident(),
            why: &error.to_string(),
        }),
    }
    if let Ok(session) = &outcome {
        session.handshaken();
    }
    Attempt { request: wanted.request, outcome }
}

async fn climb(
    backend: &Arc<Backend>,
    pool: &Arc<Pool>,
    epoch: u64,
    owner: Option<Weak<dyn Outlet>>,
    place: Place,
) -> Result<Arc<Session>, SendError> {
    let initialize = ServerHello::request(0, &pool.key.class, env!("CARGO_PKG_VERSION"));
    let greeted = ladder::greet(backend.transport.as_ref(), initialize, &backend.reporter).await?;
    let (errands, inbox) = mpsc::channel(MAX_ERRANDS);
    let session = Session::new(SessionParts {
        epoch,
        lane: crate::room::Lane { pool: pool.number, session: Some(epoch) },
        mode: pool.mode(),
        kind: greeted.opened.kind,
        outbound: greeted.opened.outbound.clone(),
        limit: backend.spec.limits.calls_per_session,
        first_id: rand::random(),
        errands,
        room: backend.room.clone(),
        catalog: pool.catalog.clone(),
        reporter: backend.reporter.clone(),
        owner,
        place,
    });
    let driver = Driver::new(session.clone(), greeted.inbound, inbox, backend.spec.times.clone());
    pool.add(session.clone());
    backend.tasks.spawn("session", drive(backend.clone(), pool.clone(), session.clone(), driver));
    // If the ladder is not climbed to its end, the driver must not stay behind.
    let unfinished = CloseUnlessReady(session.clone());
    ladder::prove(&session, &greeted.hello, &pool.catalog, &backend.reporter).await?;
    std::mem::forget(unfinished);
    pool.catalog.learn_hello(greeted.hello);
    Ok(session)
}

struct CloseUnlessReady(Arc<Session>);

impl Drop for CloseUnlessReady {
    fn drop(&mut self) {
        self.0.drain(CloseReason::Violation);
    }
}

/// A session's life after its handshake.
async fn drive(backend: Arc<Backend>, pool: Arc<Pool>, session: Arc<Session>, driver: Driver) {
    let was_ready = session.clone();
    let (reason, error) = driver.run().await;
    pool.remove(session.epoch);
    if pool.live() == 0 {
        pool.catalog.forget_lists();
    }
    let incident = match reason {
        // A ladder that was not climbed is reported as a failed opening, not as a second incident.
        _ if !was_ready.was_lent() => None,
        CloseReason::Broken => Some(error.as_ref().and_then(|e| e.cause.incident()).unwrap_or("broken")),
        CloseReason::Unresponsive => Some("timeout"),
        _ => None,
    };
    let why = error.map(|e| e.to_string()).unwrap_or_default();
    backend.reporter.on(Event::Closed {
        epoch: session.epoch,
        mode: session.mode,
        reason,
        incident,
        why: &why,
    });
    session.tell_owner_it_ended(reason, &why, &backend.spec.name);
    drop(session);
    backend.demand.notify_one();
}
