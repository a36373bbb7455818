//! The connector: the one task of a backend that opens sessions and maintains the pools. Waiting calls share its
//! handshakes: fifty waiters open one session, and a caller that leaves cancels nothing.
//!
//! It wakes on demand (a waiting call, a request for a session of one agent's own, a released place), at the end of a
//! handshake, and once a second for maintenance: warm, idle and old sessions. In the same loop the syncer sends the
//! requests of the pools' shared state.
//!
//! Pools open sessions in turn (`turns`). If agents bring credentials of their own, each pool has its own failures and
//! pause, and the connector opens sessions on an agent's demand only, because the gateway has no credential.

mod divergence;
mod handshake;
mod pause;
mod resume;
mod rotate;
mod syncer;
mod turns;

use std::{
    collections::VecDeque,
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use tokio::sync::mpsc;

use self::{
    handshake::{HandshakeResult, run_handshake},
    pause::PAUSE_IDLE,
    resume::Resume,
    rotate::Rotation,
    syncer::Syncer,
};
use crate::{
    backend::{Backend, Gate, Leaving, Opening, lock, traffic::TrafficState},
    clock,
    config::BackendSpec,
    credential::Credential,
    kinds::{CloseReason, Evidence, Mode, OpenReason},
    observe::{Event, Observe},
    pool::{
        Counted, OpenRequest, Own, Pool,
        plight::{Pause, is_final},
    },
    session::{Session, state::Standing},
    tasks::caught,
    transport::Transport,
};

/// Pause after the first panic; doubles up to [`PAUSE_IDLE`].
const FIRST_REST: Duration = Duration::from_millis(50);
/// Interval of the search for idle and old sessions.
const UPKEEP: Duration = Duration::from_secs(1);

pub(crate) struct Connector {
    backend: Arc<Backend>,
    inbox: mpsc::Receiver<OpenRequest>,
    waiting: VecDeque<OpenRequest>,
    openings: FuturesUnordered<BoxFuture<'static, HandshakeResult>>,
    /// The pause of all pools, if they have one credential.
    pause: Option<Pause>,
    /// The pool that had the last turn.
    last: u64,
    /// The earliest time of the next handshake, if it must wait.
    next_try: Option<Instant>,
    /// The session last evicted for another key.
    evicted: Weak<Session>,
    syncer: Syncer,
    resume: Resume,
    rotation: Rotation,
}

/// The purpose of the next handshake.
struct Wanted {
    pool: Arc<Pool>,
    reason: OpenReason,
    request: Option<OpenRequest>,
}

impl Backend {
    /// Registers a backend and starts its connector.
    ///
    /// # Errors
    /// A sentence for the operator when the session budget cannot be built.
    pub fn start(
        spec: BackendSpec,
        transport: Arc<dyn Transport>,
        credential: Arc<dyn Credential>,
        gate: Arc<dyn Gate>,
        observe: Arc<dyn Observe>,
    ) -> Result<Arc<Self>, String> {
        let (backend, inbox) = Self::new(spec, transport, credential, gate, observe)?;
        let connector = Connector::new(backend.clone(), inbox);
        backend.tasks.spawn("opener", connector.run());
        Ok(backend)
    }
}

impl Connector {
    pub(crate) fn new(backend: Arc<Backend>, inbox: mpsc::Receiver<OpenRequest>) -> Self {
        Self {
            backend,
            inbox,
            waiting: VecDeque::new(),
            openings: FuturesUnordered::new(),
            pause: None,
            last: 0,
            next_try: None,
            evicted: Weak::new(),
            syncer: Syncer::default(),
            resume: Resume::default(),
            rotation: Rotation::default(),
        }
    }

    /// Works until the backend ends. After a panic it continues with its state, after a pause, so that a recurring
    /// fault does not spin.
    pub(crate) async fn run(mut self) {
        let stop = self.backend.tasks.stopping();
        let mut faults = 0_u32;
        while let Err(why) = caught(self.work()).await {
            self.backend.reporter.on(Event::Panicked { task: "opener", why: &why });
            faults = faults.saturating_add(1);
            let pause = (FIRST_REST * 2_u32.saturating_pow(faults.min(16) - 1)).min(PAUSE_IDLE);
            if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
                break;
            }
        }
        self.backend.transport.keep_started(false);
        for pool in self.backend.pools() {
            for session in pool.sessions() {
                session.drain(CloseReason::Shutdown);
            }
        }
    }

    async fn work(&mut self) {
        let stop = self.backend.tasks.stopping();
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.do_what_is_due().await;
            let timer = OptionFuture::from(due.map(|at| tokio::time::sleep_until(clock::at(at))));
            // The inbox bounds the number of waiting requests.
            let has_room = self.waiting.len() < self.backend.spec.limits.queue.max(1);
            let opened = OptionFuture::from((!self.openings.is_empty()).then(|| self.openings.next()));
            tokio::select! {
                () = stop.cancelled() => break,
                Some(request) = self.inbox.recv(), if has_room => self.waiting.push_back(request),
                () = self.backend.queue.demand.notified() => {}
                Some(Some(result)) = opened => self.settle(result),
                () = self.syncer.settled() => {}
                checked = self.resume.checked() => Resume::settle(&self.backend, &checked),
                Some(()) = timer => {}
                _ = upkeep.tick() => self.upkeep(),
            }
        }
    }

    /// Lets the sessions end with their calls after the end of the registration, except sessions of agents' own that
    /// may be kept, and rejects all requests.
    fn let_go(&mut self, why: Leaving) {
        self.next_try = None;
        self.waiting.clear();
        for pool in self.backend.pools() {
            let reason = match why {
                Leaving::Replaced if pool.mode() == Mode::Pinned && self.backend.keeps_pinned() => continue,
                Leaving::Replaced => CloseReason::Replaced,
                Leaving::Removed => CloseReason::Shutdown,
            };
            for session in pool.sessions() {
                if session.is_live() {
                    session.drain(reason);
                }
            }
        }
        self.backend.left.notify_waiters();
    }

    /// Does what can be done now. Returns the time of the next step that no event wakes it for.
    async fn do_what_is_due(&mut self) -> Option<Instant> {
        let (resumes, next_step) = self.resume.look(&self.backend);
        if resumes {
            // The operator resumed, so earlier failures are resolved, perhaps by a move of the server.
            self.pause = None;
            self.backend.pools().iter().for_each(|pool| pool.plight.mended());
            self.backend.transport.renew();
        }
        match self.backend.leaving() {
            None => {
                self.open_what_is_wanted().await;
                self.rotate().await;
            }
            Some(why) => self.let_go(why),
        }
        self.backend.transport.keep_started(self.wants_standby());
        // A paused backend gets no requests.
        let shut = self.backend.traffic().is_shut();
        let due = if shut { None } else { self.syncer.look(&self.backend.pools()) };
        [due, self.next_try, next_step, self.rotation.next].into_iter().flatten().min()
    }

    async fn open_what_is_wanted(&mut self) {
        self.next_try = None;
        self.waiting.retain(|request| !request.reply.is_closed());
        if self.backend.traffic().is_shut() {
            return;
        }
        self.hand_out_spares();
        while self.may_begin() {
            let now = clock::now();
            let Some(mut wanted) = self.wanted(now) else { return };
            let Some(place) = self.find_place(&wanted).await else { return };
            let reason = match self.backend.gate.may_open(now) {
                Opening::Free => wanted.reason,
                Opening::Probe => OpenReason::Probe,
                Opening::Wait(at) => {
                    self.try_at(at.max(now + Duration::from_millis(1)));
                    return;
                }
            };
            self.last = wanted.pool.number;
            wanted.pool.plight.begins(now);
            let counted = Counted::new(&wanted.pool, |pool| &pool.opening);
            if wanted.reason == OpenReason::Pinned {
                // Taken last: a request must not be lost when an earlier step fails.
                let own = self.waiting.iter().position(|request| Arc::ptr_eq(&request.pool, &wanted.pool));
                wanted.request = own.and_then(|at| self.waiting.remove(at));
            }
            self.openings.push(run_handshake(self.backend.clone(), wanted, reason, place, counted).boxed());
        }
    }

    /// True if one more session of this pool would serve waiting calls.
    fn is_in_demand(&self, pool: &Pool) -> bool {
        if pool.mode() == Mode::Pinned {
            return false;
        }
        let opening = pool.opening.load(Ordering::Acquire);
        let live = self.there(pool);
        let most = self.backend.sessions_of(pool);
        let unasked = pool.greeting.load(Ordering::Acquire) > 0 || pool.shared.wants_session();
        let greeting = unasked && live + opening == 0;
        // Calls waiting for a session they are bound to are not served by another, and calls already woken have permits
        // waiting.
        let waiting = self.backend.queue.waiting_in(pool.lane());
        let served = opening * self.backend.calls_per_session(pool.mode()) + pool.free_permits();
        live + opening < most && (greeting || waiting > served)
    }

    /// The number of sessions that count against another one. If writes run one at a time, a draining session counts
    /// while a write runs on it: the write must end before another session takes one.
    fn there(&self, pool: &Pool) -> usize {
        if !self.backend.policy.writes_in_turn() || pool.mode() != Mode::Shared {
            return pool.live();
        }
        // Sessions in their handshake count as opening.
        let stands = |session: &&Arc<Session>| match session.standing() {
            // A closed session may be a process that still runs.
            Standing::Ready | Standing::Suspect | Standing::Closed => true,
            Standing::Draining => session.is_writing(),
            Standing::Initializing => false,
        };
        pool.sessions().iter().filter(stands).count()
    }

    fn settle(&mut self, result: HandshakeResult) {
        if result.reason == OpenReason::Reconnect {
            self.rotated(result.outcome.as_ref().map(|_| ()));
        }
        match result.outcome {
            Ok(session) => {
                self.pause = None;
                result.pool.plight.mended();
                *lock(&self.backend.trouble) = None;
                if self.backend.traffic() == TrafficState::Drained {
                    session.drain(CloseReason::Operator);
                }
                match result.request {
                    // An agent that left does not take it, and it is closed.
                    Some(request) => drop(request.reply.send(Ok(Own::new(session)))),
                    None if result.reason == OpenReason::Reconnect => {}
                    None if self.wants_spare(&result.pool) => session.set_aside(),
                    None if is_surplus(&self.backend, &result.pool) => session.drain(CloseReason::Idle),
                    None => {}
                }
            }
            Err(error) => {
                self.pause_after(&result.pool, &error);
                match result.request {
                    Some(request) if self.backend.has_keys() && is_final(&error.cause) => {
                        drop(request.reply.send(Err(error)));
                    }
                    Some(request) => self.waiting.push_front(request),
                    None => {}
                }
            }
        }
    }

    /// Withdraws sharing if a session was seen to change by itself.
    fn judge(&self) {
        let now = clock::now();
        let Some(why) = self.backend.policy.judge_changes(now) else { return };
        self.backend.policy.demote(Evidence::ListChanged, &why, now);
    }

    fn upkeep(&self) {
        if self.backend.traffic().is_shut() {
            return;
        }
        self.judge();
        let spec = &self.backend.spec;
        let warm = self.backend.default_pool().number;
        self.backend.forget_empty_pools();
        for pool in self.backend.pools() {
            let lane = pool.shared.event_lane();
            let keep = match pool.mode() {
                Mode::Pinned => usize::MAX,
                _ if pool.number == warm => spec.limits.min_idle,
                _ => usize::from(lane.is_some()),
            };
            let mut live = pool.live();
            for session in pool.sessions() {
                if session.standing() != Standing::Ready {
                    continue;
                }
                let over = session.age().checked_sub(session.max_age(spec.times.max_age));
                if let Some(over) = over {
                    // A pinned session is its agent's state and is not replaced. If the next session would have to wait
                    // for a running write, every call would; so the old one stays for a while.
                    let waits = session.is_writing() && over < spec.times.drain;
                    if pool.mode() != Mode::Pinned && !waits {
                        self.backend.transport.renew();
                        session.drain(CloseReason::MaxAge);
                    }
                } else if live > keep && lane != Some(session.epoch) && session.idle_for() >= spec.times.idle
                {
                    live -= 1;
                    session.drain(CloseReason::Idle);
                }
            }
        }
    }
}

/// True if a session without agent is surplus: the probe of a backend with sessions of agents' own, or one more than
/// the pool may have.
fn is_surplus(backend: &Backend, pool: &Pool) -> bool {
    pool.mode() == Mode::Pinned || pool.live() > backend.sessions_of(pool)
}
