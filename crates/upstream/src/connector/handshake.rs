//! One handshake, from the connection to a ready session, and the session's life after it.
//!
//! A handshake that is dropped before its end closes the session.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use mcpool_wire::{Outlet, ServerHello};
use tokio::sync::mpsc;

use super::{Wanted, divergence::compare_later};
use crate::{
    backend::Backend,
    clock, descriptors,
    error::{Cause, SendError},
    kinds::{CloseReason, Mode, OpenReason},
    observe::Event,
    pool::{Counted, OpenRequest, Pool, budget::Place, plight::is_refusal, sharing::ServerFacts},
    quirks::Quirk,
    session::{
        Session, SessionParts,
        driver::{Driver, MAX_ERRANDS},
        end, handshake,
        tools::ToolReader,
    },
    tasks::caught,
    transport::ConnectRequest,
};

static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// The result of a handshake.
pub(super) struct HandshakeResult {
    pub(super) pool: Arc<Pool>,
    pub(super) request: Option<OpenRequest>,
    pub(super) reason: OpenReason,
    pub(super) outcome: Result<Arc<Session>, SendError>,
}

/// Runs one handshake from connect to ready, under one deadline.
pub(super) async fn run_handshake(
    backend: Arc<Backend>,
    wanted: Wanted,
    reason: OpenReason,
    place: Place,
    _counted: Counted,
) -> HandshakeResult {
    let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
    let started = clock::now();
    backend.reporter.on(Event::Opening { epoch, reason });
    let owner = wanted.request.as_ref().map(|request| request.owner.clone());
    let mut pool = wanted.pool.clone();
    let climb = climb(&backend, &mut pool, epoch, owner, place);
    let outcome = match tokio::time::timeout(backend.spec.times.handshake, caught(climb)).await {
        Ok(Ok(Ok(session))) if session.handshaken() => Ok(session),
        Ok(Ok(Ok(_))) => Err(SendError::maybe_sent(Cause::Broken("it broke as it became ready".to_owned()))),
        Ok(Ok(Err(error))) => Err(error),
        Ok(Err(why)) => {
            backend.reporter.on(Event::Panicked { task: "opener", why: &why });
            Err(SendError::maybe_sent(Cause::Broken(FAULT.to_owned())))
        }
        Err(_) if descriptors::are_short() => Err(SendError::maybe_sent(Cause::Descriptors)),
        Err(_) => Err(SendError::maybe_sent(Cause::Timeout("the handshake"))),
    };
    match &outcome {
        Ok(session) => {
            backend.handshake_took(clock::now().saturating_duration_since(started));
            backend.reporter.on(Event::Opened {
                epoch,
                mode: session.mode,
                reason,
                started,
                transport: session.kind.as_str(),
            });
            compare_later(&backend, &pool, session);
        }
        Err(error) => backend.reporter.on(Event::OpenFailed {
            epoch,
            reason,
            // A paused backend may be down for maintenance. One that refuses a credential is up.
            incident: error
                .cause
                .incident()
                .filter(|_| !backend.traffic.state().is_shut() && !concerns_one_key(&backend, reason, error)),
            cause: &error.cause,
            why: &error.to_string(),
        }),
    }
    HandshakeResult { pool, request: wanted.request, reason: wanted.reason, outcome }
}

/// True if a failed handshake concerns only its credential, not the backend.
fn concerns_one_key(backend: &Backend, reason: OpenReason, error: &SendError) -> bool {
    // If others are served the backend is up; a probe tests exactly that.
    let others_are = reason != OpenReason::Probe && backend.serves_anybody();
    backend.has_keys() && (is_refusal(&error.cause) || others_are)
}

async fn climb(
    backend: &Arc<Backend>,
    pool: &mut Arc<Pool>,
    epoch: u64,
    owner: Option<Weak<dyn Outlet>>,
    place: Place,
) -> Result<Arc<Session>, SendError> {
    let initialize = ServerHello::request(0, &pool.key.class, env!("CARGO_PKG_VERSION"));
    let request = ConnectRequest {
        initialize,
        headers: pool.key.headers.clone(),
        credential: pool.key.credential.clone(),
    };
    let greeted = handshake::greet(backend.transport.as_ref(), request, &backend.reporter).await?;
    let (kind, has_session) = (greeted.opened.kind, greeted.opened.has_session);
    let wanted_for = pool.clone();
    // The server is a program that was unknown before: the session was opened to be shared, and is reserved for one
    // agent.
    if pool.mode() == Mode::Shared
        && owner.is_none()
        && backend.policy.pins(&ServerFacts::of(&greeted.hello, has_session, kind, false))
    {
        *pool = backend.pool_in(&pool.key, Mode::Pinned);
    }
    let mode = match pool.mode() {
        Mode::Shared if !has_session => Mode::Stateless,
        mode => mode,
    };
    let (errands, inbox) = mpsc::channel(MAX_ERRANDS);
    let session = Session::new(SessionParts {
        epoch,
        lane: crate::queue::Lane {
            pool: pool.number,
            session: Some(epoch),
            need: crate::queue::Need::Permit,
        },
        mode,
        kind,
        era: greeted.opened.era,
        outbound: greeted.opened.outbound.clone(),
        limit: backend.calls_per_session(mode),
        first_id: rand::random(),
        errands,
        queue: backend.queue.clone(),
        catalog: pool.catalog.clone(),
        shared: pool.shared.clone(),
        reporter: backend.reporter.clone(),
        owner,
        policy: backend.policy.clone(),
        quirks: backend.quirks.clone(),
        place,
    });
    if let Some(exchange) = greeted.acknowledged {
        session.finish_later(exchange);
    }
    if let Some(why) = &greeted.refusal {
        session.note(Quirk::InitializedRefused, why);
    }
    let driver = Driver::new(session.clone(), greeted.inbound, inbox, backend.spec.times.clone());
    pool.add(session.clone());
    // A pause parks the sessions in the pool at that moment.
    if backend.traffic.state().is_shut() {
        session.park();
    }
    backend.tasks.spawn("session", drive(backend.clone(), pool.clone(), session.clone(), driver));
    // If the handshake does not complete, the driver must end too.
    let unfinished = CloseUnlessReady(Some(session.clone()));
    let patterns = &backend.spec.sharing.pinned_tools;
    let listed = handshake::prove(&session, &greeted.hello, &backend.reporter).await?;
    let mut tools = ToolReader::new(session.clone(), pool.catalog.clone(), patterns, listed);
    let has_pinned_tool = tools.has_pinned_tool().await;
    read_later(backend, tools);
    unfinished.disarm();
    // First the facts, then the hello: whoever waits for the hello chooses a mode next.
    backend.policy.learn(ServerFacts::of(&greeted.hello, has_session, kind, has_pinned_tool));
    if !Arc::ptr_eq(&wanted_for, pool) {
        wanted_for.catalog.learn_hello(greeted.hello.clone());
    }
    pool.catalog.learn_hello(greeted.hello);
    if pool.live() == 0 {
        // No session listened until now, so a change may have been missed.
        pool.catalog.forget_lists();
    }
    Ok(session)
}

/// Reads the rest of a list beside the calls.
fn read_later(backend: &Backend, mut tools: ToolReader) {
    if tools.is_over() {
        return;
    }
    let stop = backend.tasks.stopping();
    backend.tasks.spawn("tools", async move {
        tokio::select! {
            () = tools.run() => {}
            () = stop.cancelled() => {}
        }
    });
}

struct CloseUnlessReady(Option<Arc<Session>>);

impl CloseUnlessReady {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseUnlessReady {
    fn drop(&mut self) {
        if let Some(session) = &self.0 {
            session.drain(CloseReason::Violation);
        }
    }
}

/// Runs a session after its handshake, to its end.
async fn drive(backend: Arc<Backend>, pool: Arc<Pool>, session: Arc<Session>, driver: Driver) {
    let (reason, error) = match caught(driver.run()).await {
        Ok(end) => end,
        Err(why) => {
            backend.reporter.on(Event::Panicked { task: "session", why: &why });
            (CloseReason::Fault, Some(repair(&backend, &session).await))
        }
    };
    pool.remove(session.epoch);
    if pool.live() == 0 {
        pool.catalog.forget_lists();
    }
    backend.queue.demand.notify_one();
    backend.left.notify_waiters();
    if !session.was_proven() {
        // A failed handshake is reported as such, not as a second incident.
        return;
    }
    if reason.is_gone() {
        pool.early_ends.ended(session.age(), session.has_served(), clock::now());
    }
    let incident = match reason {
        _ if session.is_parked() => None,
        CloseReason::Broken => Some(error.as_ref().and_then(|e| e.cause.incident()).unwrap_or("broken")),
        CloseReason::Unresponsive => Some("timeout"),
        _ => None,
    };
    let why = error.as_ref().map(ToString::to_string).unwrap_or_default();
    let cause = error.map(|error| error.cause);
    backend.reporter.on(Event::Closed {
        epoch: session.epoch,
        mode: session.mode,
        reason,
        incident,
        why: &why,
    });
    session.tell_owner_it_ended(reason, &why, &backend.spec.name);
    if reason.is_gone() && cause.is_some_and(|cause| cause.was_answered()) {
        session.say_farewell(backend.spec.times.connect).await;
    }
}

/// Cleans up after a driver that panicked: fails its calls with their execution state, and releases its place.
async fn repair(backend: &Backend, session: &Session) -> SendError {
    let cause = Cause::Broken(FAULT.to_owned());
    if caught(end(session, &cause, Some(backend.spec.times.connect))).await.is_err() {
        session.leave_budget();
    }
    SendError::maybe_sent(cause)
}

/// The message to agents; the place of the panic is in the log.
const FAULT: &str = "the gateway failed on this session";
