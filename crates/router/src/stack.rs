//! The layers of a call behind the front, assembled here from tower layers, outermost first:
//!
//! `catalog` (cached lists, and requests the gateway answers itself) -> `deadline` -> `queue` (the only place where
//! calls wait) -> `retry` by phase -> `breaker` (admits or rejects) -> `pool` (a call permit on the agent's session,
//! limited during a slow start, and the call itself).
//!
//! A rejection by the pool or the breaker sends the call back to the queue, never to the agent, until its time is up. A
//! call that was already sent re-enters at the front.

mod budget;
mod catalog;
mod deadline;
mod errors;
mod layers;
mod queue;

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
use mcpool_upstream::{Backend, Binding, Waiter};
use mcpool_wire::{Answer, Call, CallError};
use tower::{Layer as _, Service, ServiceBuilder, layer::layer_fn};

use crate::{events::StackObserve, settings::RetrySettings};

pub(crate) use self::errors::backend_retired;
pub use self::errors::{HeldBy, StackError};
use self::{
    budget::Budget,
    catalog::Catalog,
    deadline::Deadline,
    layers::{Pool, Retry},
    queue::{Admission, WaitingQueue},
};

/// One call on its way down the stack. Cloned for every attempt, which is cheap.
#[derive(Clone)]
pub struct StackRequest(Arc<RequestParts>);

struct RequestParts {
    call: Call,
    binding: Arc<Binding>,
    /// The call's place in the queue, passed down so that the pool releases it with the lease.
    waiter: Mutex<Option<Waiter>>,
    /// Attempts that may have run, and attempts that were rejected or not sent.
    doubtful: Mutex<Doubtful>,
    harmless: AtomicU32,
    /// Attempts for which the backend did not know the session.
    lost: AtomicU32,
    /// The epoch of the only session that can serve it.
    only_on: Option<u64>,
}

/// Outages during which the call may have run.
#[derive(Default)]
struct Doubtful {
    outages: u32,
    /// Start of the last outage, and the sessions that this call lost in it.
    since: Option<Instant>,
    sessions: Vec<u64>,
    /// Opening time of the session last used.
    opened: Option<Instant>,
}

/// Result of counting an attempt that may have run.
enum Doubt {
    /// The previous outage.
    SameOutage,
    /// A new outage, with its number.
    Outage(u32),
}

/// Time within which losses belong to one outage.
const ONE_OUTAGE: Duration = Duration::from_secs(1);

/// The assembled stack of one backend.
pub type BackendStack = Catalog<Deadline<WaitingQueue<Retry<BreakerService<Pool>>>>>;

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
    let admission = Admission {
        backend: backend.clone(),
        breaker: breaker.clone(),
        observe: observe.clone(),
        queue: times.queue,
    };
    ServiceBuilder::new()
        .layer(layer_fn(|inner| Catalog { inner, backend: backend.clone() }))
        .layer(layer_fn(|inner| Deadline { inner, idle, backend: backend.clone() }))
        .layer(layer_fn(|inner| WaitingQueue { inner, admission: admission.clone() }))
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

impl RequestParts {
    fn new(call: Call, binding: Arc<Binding>, only_on: Option<u64>) -> Self {
        let (waiter, harmless, lost) = (Mutex::new(None), AtomicU32::new(0), AtomicU32::new(0));
        Self { call, binding, waiter, doubtful: Mutex::default(), harmless, lost, only_on }
    }
}

impl StackRequest {
    /// A call on this binding.
    #[must_use]
    pub fn new(call: Call, binding: Arc<Binding>) -> Self {
        Self(Arc::new(RequestParts::new(call, binding, None)))
    }

    /// A call that only the session with this epoch can serve.
    fn only_for(call: Call, binding: Arc<Binding>, epoch: u64) -> Self {
        Self(Arc::new(RequestParts::new(call, binding, Some(epoch))))
    }

    fn only_on(&self) -> Option<u64> {
        self.0.only_on
    }

    pub(crate) fn call(&self) -> &Call {
        &self.0.call
    }

    pub(crate) fn binding(&self) -> &Arc<Binding> {
        &self.0.binding
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

    /// Counts an attempt that may have run. A crashing backend loses its sessions within moments, and a repeated call
    /// may meet each of them: this counts as one outage. A session that fails the call twice starts a new outage, and
    /// so does one opened since.
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

    /// True if any attempt may have run.
    fn may_have_run(&self) -> bool {
        self.doubtful().outages > 0
    }

    /// Records the opening time of the session in use.
    fn sent_on(&self, opened: Instant) {
        self.doubtful().opened = Some(opened);
    }

    fn doubtful(&self) -> std::sync::MutexGuard<'_, Doubtful> {
        self.0.doubtful.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// True if it was never sent.
    fn is_first_attempt(&self) -> bool {
        self.0.call.trace.attempts() == 0
    }

    /// Counts a session lost during the call.
    fn count_lost(&self) -> u32 {
        self.0.lost.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of sessions lost during the call.
    fn lost(&self) -> u32 {
        self.0.lost.load(Ordering::Relaxed)
    }

    fn count_harmless(&self) -> u32 {
        self.0.harmless.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Always ready: only the queue makes calls wait.
fn always_ready<E>(_: &mut Context<'_>) -> Poll<Result<(), E>> {
    Poll::Ready(Ok(()))
}

type StackFuture = BoxFuture<'static, Result<Answer, StackError>>;

/// The stack as the router sees it.
pub trait Stack: Service<StackRequest, Response = Answer, Error = CallError> {}

impl<S: Service<StackRequest, Response = Answer, Error = CallError>> Stack for S {}
