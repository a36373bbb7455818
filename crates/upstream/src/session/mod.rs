//! One initialised MCP session with a backend, shared by as many calls as it has permits.
//!
//! [`Session`] is the handle for callers; the driver is the task that reads. A call runs in its caller's future:
//! register, splice, send, and wait for the response. On Streamable HTTP the response comes in the body of the call's
//! own POST, on other transports through the driver.

mod activity;
mod arriving;
pub(crate) mod driver;
mod errands;
pub(crate) mod exclusive;
pub(crate) mod handshake;
mod inflight;
#[cfg(feature = "interleave")]
pub mod interleave;
mod owner;
pub(crate) mod pending;
pub(crate) mod permit;
mod permits;
pub(crate) mod probe;
mod route;
mod server_requests;
mod shape;
pub(crate) mod state;
mod stray;
pub(crate) mod tools;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpool_wire::{Call, Era, Method, Outlet};
use tokio::sync::{Notify, mpsc};

pub use self::activity::SessionStatus;
pub(crate) use self::{
    errands::{Errand, end},
    owner::Holder,
};
use self::{
    inflight::InFlight,
    pending::{Outcome, Pending},
    server_requests::Asked,
    shape::Reshaped,
    state::Standing,
};
use crate::{
    catalog::Catalog,
    clock,
    error::{Cause, SendError},
    kinds::{CloseReason, Mode, TransportKind},
    observe::{Event, Reporter},
    pool::{budget::Place, sharing::SharingPolicy},
    queue::{Lane, Queue},
    quirks::{Quirk, Quirks},
    session::permit::CallPermit,
    shared::{SharedState, log_level::SessionLogLevel},
    sync::{AtomicBool, AtomicU8, AtomicUsize, Mutex, MutexGuard},
    transport::{Exchange, Outbound},
};

/// Handle of one session.
pub(crate) struct Session {
    pub(crate) epoch: u64,
    pub(crate) lane: Lane,
    pub(crate) mode: Mode,
    pub(crate) kind: TransportKind,
    pub(crate) era: Era,
    pub(crate) opened: Instant,
    outbound: Arc<dyn Outbound>,
    pending: Pending,
    limit: usize,
    /// Permits reserved for agents with nothing in flight here.
    kept: usize,
    in_flight: AtomicUsize,
    /// True when no more permits are given out: the session serves its last request.
    spent: AtomicBool,
    /// True while reserved to become an agent's own session, without an agent yet.
    spare: std::sync::atomic::AtomicBool,
    /// True while the backend is paused or drained, and until the session is checked afterwards.
    parked: std::sync::atomic::AtomicBool,
    /// True while a write is in flight, if writes run one at a time.
    is_writing: AtomicBool,
    standing: AtomicU8,
    /// The [`probe::ProbeWith`] of its health checks.
    probe: std::sync::atomic::AtomicU8,
    /// True once the handshake is complete.
    proven: AtomicBool,
    /// True once it has answered an agent's call.
    has_served: std::sync::atomic::AtomicBool,
    /// Times of the last lease, sign of life and tool call, in nanoseconds after `opened`; 0 = never.
    last_used: AtomicU64,
    last_heard: AtomicU64,
    last_tool: AtomicU64,
    wishes: Mutex<Wishes>,
    nudge: Notify,
    errands: mpsc::Sender<Errand>,
    queue: Arc<Queue>,
    catalog: Arc<Catalog>,
    shared: Arc<SharedState>,
    /// The log level set on it.
    pub(crate) level: SessionLogLevel,
    reporter: Reporter,
    /// The agent that owns a pinned session, or leases an exclusive one.
    owner: Mutex<Option<Holder>>,
    policy: Arc<SharingPolicy>,
    quirks: Arc<Quirks>,
    asked: Mutex<Asked>,
    /// Its place in the session budget, released when the session ends. Its last handle may live longer, as agents keep
    /// handles of sessions they used.
    place: Mutex<Option<Place>>,
}

/// Requests of callers to the driver, merged so that they are bounded and never lost.
#[derive(Default)]
struct Wishes {
    handshaken: bool,
    broke: bool,
    look: bool,
    lost: Option<SendError>,
    drain: Option<CloseReason>,
    cut: Option<CloseReason>,
}

pub(crate) struct SessionParts {
    pub(crate) epoch: u64,
    pub(crate) lane: Lane,
    pub(crate) mode: Mode,
    pub(crate) kind: TransportKind,
    pub(crate) era: Era,
    pub(crate) outbound: Arc<dyn Outbound>,
    pub(crate) limit: usize,
    pub(crate) first_id: u32,
    pub(crate) errands: mpsc::Sender<Errand>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) shared: Arc<SharedState>,
    pub(crate) reporter: Reporter,
    pub(crate) owner: Option<Weak<dyn Outlet>>,
    pub(crate) policy: Arc<SharingPolicy>,
    pub(crate) quirks: Arc<Quirks>,
    pub(crate) place: Place,
}

impl Session {
    pub(crate) fn new(parts: SessionParts) -> Arc<Self> {
        Arc::new(Self {
            epoch: parts.epoch,
            lane: parts.lane,
            mode: parts.mode,
            kind: parts.kind,
            era: parts.era,
            opened: clock::now(),
            outbound: parts.outbound,
            pending: Pending::new(parts.first_id),
            limit: parts.limit,
            kept: permits::kept(parts.mode, parts.limit),
            in_flight: AtomicUsize::new(0),
            spent: AtomicBool::new(false),
            spare: false.into(),
            parked: false.into(),
            is_writing: AtomicBool::new(false),
            standing: AtomicU8::new(Standing::Initializing as u8),
            probe: (probe::ProbeWith::Ping as u8).into(),
            proven: AtomicBool::new(false),
            has_served: false.into(),
            last_used: AtomicU64::new(0),
            last_heard: AtomicU64::new(0),
            last_tool: AtomicU64::new(0),
            wishes: Mutex::default(),
            nudge: Notify::new(),
            errands: parts.errands,
            queue: parts.queue,
            catalog: parts.catalog,
            shared: parts.shared,
            level: SessionLogLevel::default(),
            reporter: parts.reporter,
            owner: Mutex::new(parts.owner.map(|outlet| Holder { outlet, borrower: None })),
            policy: parts.policy,
            quirks: parts.quirks,
            asked: Mutex::default(),
            place: Mutex::new(Some(parts.place)),
        })
    }

    pub(crate) fn standing(&self) -> Standing {
        // Sequentially consistent with `in_flight`: either the end of the last call sees the draining session, or the
        // driver sees that no call is left.
        Standing::from_u8(self.standing.load(Ordering::SeqCst))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Pending entries: calls in flight, zombies and the gateway's own requests.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Ends the session after its calls.
    pub(crate) fn drain(&self, reason: CloseReason) {
        self.wish(|wishes| wishes.drain = Some(reason));
    }

    /// Ends the session now. Calls fail with their execution state; the backend gets their cancellations.
    pub(crate) fn cut(&self, reason: CloseReason) {
        self.wish(|wishes| wishes.cut = Some(reason));
    }

    /// Completes the handshake. The session is available at once, so that no other is opened in its place; the driver
    /// wakes waiting calls later. False if it broke meanwhile.
    pub(crate) fn handshaken(&self) -> bool {
        self.proven.store(true, Ordering::SeqCst);
        let (from, to) = (Standing::Initializing as u8, Standing::Ready as u8);
        let _ = self.standing.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        self.wish(|wishes| wishes.handshaken = true);
        self.standing() != Standing::Closed
    }

    /// True if it is available now or soon. During the handshake its opening counts instead.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.standing(), Standing::Ready | Standing::Suspect)
    }

    /// Releases its place in the session budget.
    pub(crate) fn leave_budget(&self) {
        let place = lock(&self.place).take();
        drop(place);
    }

    /// True while it has a place in the session budget.
    pub(crate) fn holds_place(&self) -> bool {
        lock(&self.place).is_some()
    }

    /// Runs one call to its response.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: the backend is notified, and the permit is released with the response or
    /// after `cancel_grace`.
    pub(crate) async fn call(self: Arc<Self>, permit: CallPermit, call: &Call) -> Outcome {
        let reshaped = Reshaped::of(call, self.era)?;
        let ticket = self.pending.register(permit, call)?;
        let started = clock::now();
        let message = reshaped.as_ref().map_or(&call.message, |reshaped| &reshaped.message);
        let bytes = message.with_id_and_token(ticket.id);
        let waits = self.outbound.tells_leaving();
        if !waits {
            call.trace.mark_sent(started);
        }
        let is_tool = call.method == Method::ToolsCall;
        if is_tool {
            self.last_tool.store(self.nanos().max(1), Ordering::Relaxed);
        }
        let exchange = match (call.era, self.era) {
            (Era::Modern, Era::Modern) => self.outbound.pass(bytes, &call.headers),
            (Era::Modern | Era::Legacy, _) => self.outbound.send(bytes),
        };
        let mut flight = InFlight::new(self.clone(), ticket, exchange, Some(call.trace.clone()));
        flight.waits = waits;
        let outcome = flight.answer().await;
        let ended = clock::now();
        if is_tool {
            self.last_tool.store(self.nanos().max(1), Ordering::Relaxed);
        }
        if outcome.is_ok() {
            self.has_served.store(true, Ordering::Relaxed);
            call.trace.mark_answered(ended);
            self.reporter.on(Event::Answered {
                epoch: self.epoch,
                started,
                took: ended.saturating_duration_since(started),
                method: call.method.label(),
            });
        }
        match reshaped {
            Some(reshaped) => outcome.map(|answer| reshaped.finish(answer, &self.server_info())),
            None => outcome,
        }
    }

    /// The server's name and version, as JSON text.
    fn server_info(&self) -> String {
        self.catalog.hello().map_or_else(|| "{}".to_owned(), |hello| hello.server_info.to_string())
    }

    /// Sends a request of the gateway itself.
    pub(crate) async fn request_own(self: &Arc<Self>, method: &str, params: Option<&str>) -> Outcome {
        let ticket = self.pending.register_own()?;
        let exchange = self.outbound.send(probe::own_request(ticket.id, method, params));
        InFlight::new(self.clone(), ticket, exchange, None).answer().await
    }

    /// Leaves the rest of an exchange to the driver.
    pub(crate) fn finish_later(&self, exchange: Exchange) {
        // If the queue is full, the connection is closed.
        let _ = self.errands.try_send(Errand::Finish(exchange));
    }

    /// Logs a missing feature of the server, once per backend.
    pub(crate) fn note(&self, quirk: Quirk, why: &str) {
        self.quirks.note(quirk, why);
    }

    /// Forwards a notification or response of the owner.
    pub(crate) fn send_later(&self, message: Bytes) {
        if self.errands.try_send(Errand::Send(message)).is_err() {
            self.reporter.on(Event::Dropped { kind: "notification" });
        }
    }

    /// Sends the backend the end of a session that it may still know. Best effort.
    pub(crate) async fn say_farewell(&self, limit: Duration) {
        if self.kind == TransportKind::Http {
            let _ = tokio::time::timeout(limit, self.outbound.close()).await;
        }
    }

    /// Marks the session as suspect after another one of its pool was lost: no new calls until a sign of life.
    pub(crate) fn look(&self) {
        let (ready, suspect) = (Standing::Ready as u8, Standing::Suspect as u8);
        if self.standing.compare_exchange(ready, suspect, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.wish(|wishes| wishes.look = true);
        }
    }

    /// Applies a failed send to the session.
    fn report(&self, error: &SendError) {
        if let Some(class) = status_class(&error.cause) {
            self.reporter.on(Event::Status { class });
        }
        // Stops new calls first; then the driver decides about the session.
        if error.cause.ends_session() || matches!(error.cause, Cause::Broken(_)) {
            let (ready, suspect) = (Standing::Ready as u8, Standing::Suspect as u8);
            let _ = self.standing.compare_exchange(ready, suspect, Ordering::SeqCst, Ordering::SeqCst);
        }
        if error.cause.ends_session() {
            self.wish(|wishes| wishes.lost = Some(error.clone()));
        } else if matches!(error.cause, Cause::Broken(_) | Cause::Timeout(_) | Cause::Gateway(_)) {
            self.wish(|wishes| wishes.broke = true);
        }
    }

    /// Publishes the standing; returns the previous one.
    fn publish(&self, standing: Standing) -> Standing {
        Standing::from_u8(self.standing.swap(standing as u8, Ordering::SeqCst))
    }

    /// Counts an agent's response without a matching request.
    pub(crate) fn dropped_response(&self) {
        self.reporter.on(Event::Dropped { kind: "unknown_id" });
    }

    fn dropped_answer(&self) {
        self.reporter.on(Event::Dropped { kind: "abandoned" });
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut lock(&self.wishes));
        self.nudge.notify_one();
    }
}

fn status_class(cause: &Cause) -> Option<&'static str> {
    match cause {
        Cause::SessionLost(_) => Some("lost"),
        Cause::Pressure(_) => Some("429"),
        Cause::Gateway(_) => Some("5xx"),
        Cause::Credential(_)
        | Cause::NotInitialized(_)
        | Cause::WrongVersion(_)
        | Cause::WrongTransport(_) => Some("4xx"),
        Cause::Status(r) => Some(if r.status >= 500 { "5xx" } else { "4xx" }),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
