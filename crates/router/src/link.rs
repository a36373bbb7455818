//! One agent's tie to the backend its URL means, across changes of the configuration.
//!
//! When another registration takes the backend's name, an agent without a session of its own is moved there: at once
//! where it can be, so that what it is subscribed to goes on, else with its next call. What was asked of the old one
//! and not sent follows it; what was sent is answered by the old one. An agent with a session of its own keeps it until
//! one of the two ends.
//!
//! In the same way it is moved when a call comes with other values of the headers its backend is given: each call is
//! made over a seat of exactly its own values, so a refreshed token is sent, and no call carries another's.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use mcpool_upstream::{Backend, Endpoint, Leaving, Mode, Seat};
use mcpool_wire::{
    Answer, Call, CallError, Caller, Era, ErrorKind, Executed, Forwarded, Hello, Link, LinkEvent, Message,
    Method, Reply, Revision,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{
    route::{Registered, Registry},
    stack::{BackendStack, Order, left},
};

/// One agent's tie to one backend.
pub struct GatewayLink {
    ties: Arc<Ties>,
    links: Arc<Links>,
    number: u64,
}

/// The agent, and where it is tied now.
pub(crate) struct Ties {
    hello: Hello,
    /// Its agent with what it was last moved for.
    caller: ArcSwap<Caller>,
    registry: Arc<ArcSwap<Registry>>,
    tie: ArcSwap<Tie>,
    /// One move at a time: all calls of the agent share it, and its failure.
    turn: Semaphore,
    failed: Mutex<Failed>,
}

/// What became of the moves that failed.
#[derive(Default)]
struct Failed {
    times: u64,
    /// For an agent that sent this.
    last: Option<(Forwarded, CallError)>,
}

/// A seat at one registration of the backend.
pub(crate) struct Tie {
    seat: Arc<Seat>,
    backend: Arc<Backend>,
    stack: BackendStack,
    left: CancellationToken,
}

/// All links there are, so that they can be moved. An entry lives as long as its link.
#[derive(Default)]
pub(crate) struct Links {
    next: AtomicU64,
    all: Mutex<HashMap<u64, Weak<Ties>>>,
}

/// Agents that are moved at the same time.
const MOVED_AT_ONCE: usize = 64;

impl Tie {
    pub(crate) fn new(registered: &Registered, seat: Seat) -> Self {
        Self {
            seat: Arc::new(seat),
            backend: registered.backend.clone(),
            stack: registered.stack.clone(),
            left: registered.left.clone(),
        }
    }

    /// Whether the agent has to go elsewhere.
    fn is_left(&self) -> bool {
        match self.backend.leaving() {
            None => false,
            Some(Leaving::Replaced) => self.seat.mode() != Mode::Pinned,
            Some(Leaving::Removed) => true,
        }
    }

    /// Whether its sessions carry what this caller sends.
    fn serves(&self, caller: &Arc<Caller>) -> bool {
        Arc::ptr_eq(caller, self.seat.caller()) || self.backend.carries(&self.seat, caller)
    }
}

impl GatewayLink {
    pub(crate) fn new(hello: Hello, registry: Arc<ArcSwap<Registry>>, tie: Tie, links: &Arc<Links>) -> Self {
        let (caller, tie) = (ArcSwap::new(hello.caller.clone()), ArcSwap::from_pointee(tie));
        let turn = Semaphore::new(1);
        let ties = Ties { hello, caller, registry, tie, turn, failed: Mutex::default() };
        let ties = Arc::new(ties);
        Self { number: links.enter(&ties), links: links.clone(), ties }
    }

    /// Who may use the sessions of this agent.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.seat().mode()
    }

    fn seat(&self) -> Arc<Seat> {
        self.ties.tie.load().seat.clone()
    }
}

impl Link for GatewayLink {
    fn initialize_result(&self, revision: Revision) -> Bytes {
        self.seat().initialize_result(revision)
    }

    fn is_own(&self) -> bool {
        self.mode() == Mode::Pinned
    }

    fn sharing(&self) -> &'static str {
        self.mode().as_str()
    }

    fn is_outdated(&self) -> bool {
        let tie = self.ties.tie.load();
        tie.backend.is_outdated(&tie.seat, &self.ties.hello)
    }

    fn era(&self) -> Era {
        self.seat().era()
    }

    fn check_params(&self, tool: &str, message: &[u8], headers: &Forwarded) -> Result<(), String> {
        self.seat().check_params(tool, message, headers)
    }

    fn call(&self, call: Call) -> Reply<Answer> {
        let tie = self.ties.tie.load_full();
        let ties = self.ties.clone();
        if tie.is_left() || !tie.serves(&call.caller) {
            return async move { ties.follow(call).await }.boxed();
        }
        let order = Order::new(call, tie.seat.clone());
        let answer = tie.ask(order.clone());
        async move {
            match answer.await {
                Err(error) if tie.should_follow(&error) => {
                    let followed = ties.follow(order.call().clone()).await;
                    // What may have run there may have run, whatever becomes of it here.
                    followed.map_err(|last| match (error.executed, last.executed) {
                        (Executed::Maybe, Executed::No) => last.executed(Executed::Maybe),
                        _ => last,
                    })
                }
                settled => settled,
            }
        }
        .boxed()
    }

    fn notify(&self, notification: Bytes) {
        self.seat().notify(notification);
    }

    fn respond(&self, id: u64, response: Message) {
        self.seat().respond(id, &response);
    }
}

impl Drop for GatewayLink {
    fn drop(&mut self) {
        self.links.lock().remove(&self.number);
    }
}

impl Tie {
    fn ask(&self, order: Order) -> Reply<Answer> {
        let is_subscription = order.call().method == Method::ResourcesSubscribe;
        let answer = self.stack.clone().call(order);
        if !is_subscription || self.seat.mode() == Mode::Pinned {
            return answer;
        }
        // It waits outside the room, where nobody would tell it.
        let (gone, name) = (self.left.clone(), self.backend.spec().name.clone());
        async move {
            tokio::select! {
                biased;
                settled = answer => settled,
                () = gone.cancelled() => Err(left(&name)),
            }
        }
        .boxed()
    }

    fn should_follow(&self, error: &CallError) -> bool {
        error.kind == ErrorKind::Draining && self.is_left()
    }
}

impl Ties {
    /// Makes a call wherever the backend's name leads now, however often that changes within the call's own time.
    async fn follow(&self, call: Call) -> Result<Answer, CallError> {
        let idle = self.tie.load().backend.spec().times.call_idle;
        let until = call.hard_deadline.min(call.trace.started + idle);
        loop {
            let moved = {
                let next = find(&self.registry, &self.hello.target.name);
                // Counted where it waits, and elsewhere once that is replaced.
                let _waits = next.as_ref().map(|next| next.backend.awaits_seat());
                let moved = tokio::time::timeout_at(until.into(), self.current(&call.caller));
                tokio::select! {
                    biased;
                    moved = moved => moved,
                    () = replaced(next.as_deref()) => continue,
                }
            };
            let tie = moved.unwrap_or_else(|_| Err(self.not_moved(&call)))?;
            match tie.ask(Order::new(call.clone(), tie.seat.clone())).await {
                Err(error) if tie.should_follow(&error) => {}
                settled => return settled,
            }
        }
    }

    fn not_moved(&self, call: &Call) -> CallError {
        let (name, time) = (&self.hello.target.name, call.trace.started.elapsed());
        let seconds = time.as_secs();
        let why = find(&self.registry, name).and_then(|next| next.backend.trouble());
        let why = why.map(|trouble| format!(": {}", trouble.why)).unwrap_or_default();
        let message = format!(
            "the configuration of backend {name:?} changed, and it has not become ready within {seconds} s{why}"
        );
        CallError::not_sent(ErrorKind::Deadline, message).of_backend(name.clone())
    }

    /// The agent's tie for what this caller sends, moved if it has to be. Whoever waits while a move fails shares its
    /// failure: the next one would meet the same backend.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the agent where it was, and the next one moves it.
    async fn current(&self, caller: &Arc<Caller>) -> Result<Arc<Tie>, CallError> {
        let before = self.failed().times;
        let _turn = self.turn.acquire().await;
        let tie = self.tie.load_full();
        if !tie.is_left() && tie.serves(caller) {
            return Ok(tie);
        }
        if let Some(error) = self.failed().since(before, caller) {
            return Err(error);
        }
        let moved = self.moved(tie, caller).await;
        if let Err(error) = &moved {
            let mut failed = self.failed();
            *failed =
                Failed { times: failed.times + 1, last: Some((caller.forwarded.clone(), error.clone())) };
        }
        moved
    }

    /// Moves the agent, again if where it goes is replaced meanwhile.
    async fn moved(&self, mut tie: Arc<Tie>, caller: &Arc<Caller>) -> Result<Arc<Tie>, CallError> {
        let name = &self.hello.target.name;
        while tie.is_left() || !tie.serves(caller) {
            if !tie.is_left() && tie.seat.mode() == Mode::Pinned {
                return Err(other_credentials().of_backend(name.clone()));
            }
            // What the agent's own session knew is lost: it has to begin anew.
            let next = if tie.seat.mode() == Mode::Pinned { None } else { find(&self.registry, name) };
            let Some(next) = next else { return Err(left(name)) };
            let times = &next.backend.spec().times;
            // A moment ago the agent was served: it is patient.
            let patience = times.queue.max(times.first_open);
            let hello = Hello { caller: caller.clone(), ..self.hello.clone() };
            if let Some(seat) = seat_unless_left(&next, &hello, patience).await? {
                seat.follow(&tie.seat, is_elsewhere(&tie.backend, &next.backend));
                if seat.mode() == Mode::Pinned {
                    // One that is closed is told of nothing.
                    let _ = hello.outlet.push(LinkEvent::Owned(caller.forwarded.clone()));
                }
                self.caller.store(caller.clone());
                tie = Arc::new(Tie::new(&next, seat));
                self.tie.store(tie.clone());
            }
        }
        Ok(tie)
    }

    fn failed(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failed {
    /// The last failure, if there was one since so many, for what this caller sends.
    fn since(&self, times: u64, caller: &Caller) -> Option<CallError> {
        let (sent, error) = self.last.as_ref().filter(|_| self.times > times)?;
        (*sent == caller.forwarded).then(|| error.clone())
    }
}

impl Links {
    fn enter(&self, ties: &Arc<Ties>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::downgrade(ties));
        number
    }

    /// Moves every agent that is tied to a registration that ended. Who cannot be moved now is with its next call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest where they are.
    pub(crate) async fn move_from(&self, backend: &Arc<Backend>) {
        let all: Vec<Weak<Ties>> = self.lock().values().cloned().collect();
        let moves = all.into_iter().map(|ties| async move {
            let Some(ties) = ties.upgrade() else { return };
            let tie = ties.tie.load_full();
            if Arc::ptr_eq(&tie.backend, backend) && tie.is_left() && tie.seat.mode() != Mode::Pinned {
                drop(tie);
                let _ = ties.current(&ties.caller.load_full()).await;
            }
        });
        futures::stream::iter(moves).buffer_unordered(MOVED_AT_ONCE).for_each(|()| async {}).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Ties>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registration that has this name now.
pub(crate) fn find(registry: &ArcSwap<Registry>, name: &str) -> Option<Arc<Registered>> {
    registry.load().backends.get(name).cloned()
}

/// Resolves when this registration ends.
async fn replaced(registered: Option<&Registered>) {
    match registered {
        Some(registered) => registered.left.cancelled().await,
        None => std::future::pending().await,
    }
}

/// A seat, or nothing if the registration ended meanwhile.
///
/// # Cancel safety
/// Dropping the future gives everything back.
pub(crate) async fn seat_unless_left(
    registered: &Registered,
    hello: &Hello,
    patience: Duration,
) -> Result<Option<Seat>, CallError> {
    tokio::select! {
        biased;
        seat = registered.backend.seat_within(hello, patience) => match seat {
            Err(_) if registered.left.is_cancelled() => Ok(None),
            settled => settled.map(Some),
        },
        () = registered.left.cancelled() => Ok(None),
    }
}

/// What an agent of a session of its own is told that comes with other credentials than that was opened with. The front
/// refuses most of them before.
fn other_credentials() -> CallError {
    let message = "this session belongs to other credentials: send initialize";
    CallError::not_sent(ErrorKind::InvalidRequest, message)
}

/// Whether what was known of the server says nothing of the other one.
fn is_elsewhere(old: &Backend, new: &Backend) -> bool {
    match (&old.spec().endpoint, &new.spec().endpoint) {
        (Endpoint::Http(old), Endpoint::Http(new)) => old.url != new.url,
        (old, new) => old != new,
    }
}
