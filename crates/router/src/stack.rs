//! The path of a call behind the front, assembled in one place from tower layers, outermost first:
//!
//! `catalog` (lists that are known, what the gateway answers itself) -> `deadline` -> `room` (the only place where
//! calls wait) -> `retry` by phase -> `breaker` (admits or refuses) -> `pool` (a slot on the agent's session, and the
//! call on it, as fast as a backend that has only just recovered is let work).
//!
//! Everything below the room is tried again and again: a refusal of the pool or the breaker sends the call back into
//! the room, never to the agent, until its time is up. A call that was being served goes back to the front.

mod budget;
mod catalog;
mod deadline;
mod errors;
mod layers;
mod room;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use mcpool_breaker::{Breaker, BreakerLayer, BreakerService};
use mcpool_upstream::{Backend, Seat, Waiter};
use mcpool_wire::{Answer, Call, CallError};
use tower::{Layer as _, Service, ServiceBuilder, layer::layer_fn};

pub(crate) use self::errors::left;
pub use self::errors::{HeldBy, StackError};
use self::{
    budget::Budget,
    catalog::Catalog,
    deadline::Deadline,
    layers::{Pool, Retry},
    room::{Desk, WaitingRoom},
};

/// One call on its way down the stack. Cloning is cheap; it is cloned for every attempt.
#[derive(Clone)]
pub struct Order(Arc<OrderParts>);

struct OrderParts {
    call: Call,
    seat: Arc<Seat>,
    /// The call's place in the waiting room, handed down so that the pool can give it up with the lease.
    waiter: Mutex<Option<Waiter>>,
    /// How often it may have been executed, and how often it was refused or not sent.
    doubtful: Mutex<Doubtful>,
    harmless: AtomicU32,
    /// How often the backend did not know the session it was sent on.
    lost: AtomicU32,
    /// The only session that can serve it, by its epoch.
    only_on: Option<u64>,
}

/// Outages in which the call may have been executed.
#[derive(Default)]
struct Doubtful {
    outages: u32,
    /// When the last one began, and the sessions it took from this call.
    since: Option<Instant>,
    sessions: Vec<u64>,
    /// When the session was opened that the call was last sent on.
    opened: Option<Instant>,
}

/// What one more attempt that may have run means.
enum Doubt {
    /// The same outage as before.
    SameOutage,
    /// A new one: the how-manieth.
    Outage(u32),
}

/// How long losses belong to one outage.
const ONE_OUTAGE: Duration = Duration::from_secs(1);

/// How calls are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Most times a call that may have run is sent, in all, where repeating it is safe.
    pub attempts: u32,
    /// First pause.
    pub base: Duration,
    /// Longest pause.
    pub cap: Duration,
    /// Most calls that are sent again, in percent of those sent within the last seconds; never fewer than 3/s.
    pub budget: u32,
}

/// Told what happens to calls on their way, per backend.
pub trait StackObserve: Send + Sync + 'static {
    /// A call got its slot after this time.
    fn leased(&self, waited: Duration);
    /// A call is sent again; the phase says what is known of the last attempt: `not_sent`, `refused`, `maybe_sent`.
    fn retried(&self, phase: &'static str);
    /// A call did not get into the room or out of it: `full` (of calls), `bytes` (full of them), `displaced` (by one
    /// of an agent that had less in a full room), `timeout`, `circuit_open`; or not back into it, though it could have
    /// been sent again: `retry_budget`.
    fn rejected(&self, reason: &'static str);
}

/// The assembled stack of one backend.
pub type BackendStack = Catalog<Deadline<WaitingRoom<Retry<BreakerService<Pool>>>>>;

impl Default for RetrySettings {
    fn default() -> Self {
        Self { attempts: 3, base: Duration::from_millis(100), cap: Duration::from_secs(5), budget: 20 }
    }
}

/// Assembles the stack of a backend.
#[must_use]
pub fn backend_stack(
    backend: &Arc<Backend>,
    breaker: &Breaker,
    retry: RetrySettings,
    observe: &Arc<dyn StackObserve>,
) -> BackendStack {
    let times = backend.spec().times.clone();
    let idle = times.call_idle;
    let budget = Arc::new(Budget::new(retry.budget, now()));
    let desk = Desk {
        backend: backend.clone(),
        breaker: breaker.clone(),
        observe: observe.clone(),
        queue: times.queue,
    };
    ServiceBuilder::new()
        .layer(layer_fn(|inner| Catalog { inner, backend: backend.clone() }))
        .layer(layer_fn(|inner| Deadline { inner, idle, backend: backend.clone() }))
        .layer(layer_fn(|inner| WaitingRoom { inner, desk: desk.clone() }))
        .layer(layer_fn(|inner| Retry {
            inner,
            settings: retry,
            idle,
            budget: budget.clone(),
            observe: observe.clone(),
        }))
        .layer_fn(|inner| BreakerLayer::new(breaker.clone(), now).layer(inner))
        .service(Pool {
            backend: backend.clone(),
            breaker: breaker.clone(),
            budget: budget.clone(),
            observe: observe.clone(),
        })
}

/// The clock of the call path: tokio's, so that tests can pause it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl OrderParts {
    fn new(call: Call, seat: Arc<Seat>, only_on: Option<u64>) -> Self {
        let (waiter, harmless, lost) = (Mutex::new(None), AtomicU32::new(0), AtomicU32::new(0));
        Self { call, seat, waiter, doubtful: Mutex::default(), harmless, lost, only_on }
    }
}

impl Order {
    /// A call for this seat.
    #[must_use]
    pub fn new(call: Call, seat: Arc<Seat>) -> Self {
        Self(Arc::new(OrderParts::new(call, seat, None)))
    }

    /// A call that only the session with this epoch can serve.
    fn only_for(call: Call, seat: Arc<Seat>, epoch: u64) -> Self {
        Self(Arc::new(OrderParts::new(call, seat, Some(epoch))))
    }

    fn only_on(&self) -> Option<u64> {
        self.0.only_on
    }

    pub(crate) fn call(&self) -> &Call {
        &self.0.call
    }

    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.0.seat
    }

    fn keep_place(&self, waiter: Waiter) {
        *self.place() = Some(waiter);
    }

    fn take_place(&self) -> Option<Waiter> {
        self.place().take()
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<Waiter>> {
        self.0.waiter.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts an attempt that may have run. The sessions of a backend that dies are lost one after another within
    /// moments, and a repeated call can meet each of them: that is one outage, and counts once.
    /// A session that fails the call twice is another matter, and so is one that was opened since.
    fn count_doubtful(&self, now: Instant) -> Doubt {
        let session = self.0.call.trace.session();
        let mut doubtful = self.doubtful();
        let opened = doubtful.opened;
        match doubtful.since {
            Some(since)
                if now.saturating_duration_since(since) < ONE_OUTAGE
                    && opened.is_none_or(|opened| opened <= since)
                    && !doubtful.sessions.contains(&session) =>
            {
                doubtful.sessions.push(session);
                Doubt::SameOutage
            }
            _ => {
                doubtful.since = Some(now);
                doubtful.sessions = vec![session];
                doubtful.outages += 1;
                Doubt::Outage(doubtful.outages)
            }
        }
    }

    /// Whether any attempt so far may have been executed.
    fn may_have_run(&self) -> bool {
        self.doubtful().outages > 0
    }

    /// It is sent on a session that was opened then.
    fn sent_on(&self, opened: Instant) {
        self.doubtful().opened = Some(opened);
    }

    fn doubtful(&self) -> std::sync::MutexGuard<'_, Doubtful> {
        self.0.doubtful.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether it was never sent.
    fn is_first_attempt(&self) -> bool {
        self.0.call.trace.attempts() == 0
    }

    /// Counts a session that was lost under it.
    fn count_lost(&self) -> u32 {
        self.0.lost.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many sessions were lost under it.
    fn lost(&self) -> u32 {
        self.0.lost.load(Ordering::Relaxed)
    }

    fn count_harmless(&self) -> u32 {
        self.0.harmless.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A service that is always ready: waiting is the room's business alone.
fn always_ready<E>(_: &mut Context<'_>) -> Poll<Result<(), E>> {
    Poll::Ready(Ok(()))
}

type StackFuture = BoxFuture<'static, Result<Answer, StackError>>;

/// The outermost layer's contract towards the router.
pub trait Stack: Service<Order, Response = Answer, Error = CallError> {}

impl<S: Service<Order, Response = Answer, Error = CallError>> Stack for S {}
