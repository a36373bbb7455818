//! One initialised conversation with a backend, shared by as many callers as it has slots.
//!
//! A [`Session`] is the handle callers use; the driver is the task that reads. A call runs in its caller's future:
//! register, splice, send, and wait for the answer, which on Streamable HTTP comes in the body of the call's own
//! POST and elsewhere through the driver.

mod arriving;
pub(crate) mod driver;
pub(crate) mod exclusive;
pub(crate) mod handshake;
mod inflight;
#[cfg(feature = "interleave")]
pub mod interleave;
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
use mcpool_wire::{AgentKey, Call, Era, Method, Outlet};
use tokio::sync::{Notify, mpsc};

use self::{
    inflight::InFlight,
    pending::{Outcome, Pending},
    server_requests::Asked,
    shape::Reshaped,
    state::Standing,
};
use crate::{
    backend::SessionStatus,
    catalog::Catalog,
    clock,
    error::{Cause, SendError},
    observe::{CloseReason, Event, Mode, Reporter},
    pool::{Place, sharing::ModeBook},
    queue::{Lane, Room},
    quirks::{Quirk, Quirks},
    session::permit::Slot,
    shared::{Merged, log_level::LevelTold},
    sync::{AtomicBool, AtomicU8, AtomicUsize, Mutex, MutexGuard},
    transport::{Exchange, Outbound, TransportKind},
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
    /// Of the slots, those for agents with nothing in flight here.
    kept: usize,
    in_flight: AtomicUsize,
    /// Nobody may take a slot any more: it serves its last request.
    spent: AtomicBool,
    /// It is to be one agent's own, and no agent has it yet.
    spare: std::sync::atomic::AtomicBool,
    /// Its backend is paused or drained, or was until now and nobody has looked at the session since.
    parked: std::sync::atomic::AtomicBool,
    /// A call that may change something is in flight, where such calls run one at a time.
    is_writing: AtomicBool,
    standing: AtomicU8,
    /// How it is asked whether it lives, a [`probe::ProbeWith`].
    probe: std::sync::atomic::AtomicU8,
    /// Every rung of its ladder was reached.
    proven: AtomicBool,
    /// A call of an agent was answered on it.
    has_served: std::sync::atomic::AtomicBool,
    /// Nanoseconds after `opened` at which the session was last lent, last heard of, and last called a tool (0: never).
    last_used: AtomicU64,
    last_heard: AtomicU64,
    last_tool: AtomicU64,
    wishes: Mutex<Wishes>,
    nudge: Notify,
    errands: mpsc::Sender<Errand>,
    room: Arc<Room>,
    catalog: Arc<Catalog>,
    merged: Arc<Merged>,
    /// The log level it was set to.
    pub(crate) level: LevelTold,
    reporter: Reporter,
    /// The agent a pinned session belongs to, or that an exclusive one is lent to.
    owner: Mutex<Option<Holder>>,
    modes: Arc<ModeBook>,
    quirks: Arc<Quirks>,
    asked: Mutex<Asked>,
    /// Its place in the budget. Given back when the session is over, not when the last handle of it is gone: agents
    /// keep handles of sessions they used.
    place: Mutex<Option<Place>>,
}

/// Who a session belongs to.
pub(crate) struct Holder {
    pub(crate) outlet: Weak<dyn Outlet>,
    /// Where the session serves others before and after: they may have asked for more of its log.
    pub(crate) borrower: Option<AgentKey>,
}

/// What callers want the driver to know. Coalesced, so that it is bounded and never lost.
#[derive(Default)]
struct Wishes {
    handshaken: bool,
    broke: bool,
    look: bool,
    lost: Option<SendError>,
    drain: Option<CloseReason>,
    cut: Option<CloseReason>,
}

/// Work the driver does for others, in its set of futures.
pub(crate) enum Errand {
    /// Send this and forget it.
    Send(Bytes),
    /// The caller has its answer; let the connection become reusable.
    Finish(Exchange),
    /// The caller is gone: tell the backend once it has the call, and wait for the rest.
    Abandon { id: u64, exchange: Option<Exchange>, accepted: bool },
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
    pub(crate) room: Arc<Room>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) merged: Arc<Merged>,
    pub(crate) reporter: Reporter,
    pub(crate) owner: Option<Weak<dyn Outlet>>,
    pub(crate) modes: Arc<ModeBook>,
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
            room: parts.room,
            catalog: parts.catalog,
            merged: parts.merged,
            level: LevelTold::default(),
            reporter: parts.reporter,
            owner: Mutex::new(parts.owner.map(|outlet| Holder { outlet, borrower: None })),
            modes: parts.modes,
            quirks: parts.quirks,
            asked: Mutex::default(),
            place: Mutex::new(Some(parts.place)),
        })
    }

    pub(crate) fn standing(&self) -> Standing {
        // Sequentially consistent with `in_flight`: whoever ends the last call sees that the session drains, or the
        // driver sees that there is no call left.
        Standing::from_u8(self.standing.load(Ordering::SeqCst))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// What the server asks goes to this agent from now on.
    pub(crate) fn lend_to(&self, holder: Holder) {
        *lock(&self.owner) = Some(holder);
    }

    /// Keeps it for the next agent that gets a session of its own.
    pub(crate) fn set_aside(&self) {
        self.spare.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_spare(&self) -> bool {
        self.spare.load(Ordering::SeqCst)
    }

    /// Gives it to an agent for good; false if another one has it.
    pub(crate) fn give_to(&self, outlet: Weak<dyn Outlet>) -> bool {
        let is_free = self.spare.swap(false, Ordering::SeqCst) && self.standing() == Standing::Ready;
        if is_free {
            self.lend_to(Holder { outlet, borrower: None });
        }
        is_free
    }

    /// It is nobody's: what is asked for its last holder has no answer any more.
    pub(crate) fn take_back(&self) {
        *lock(&self.owner) = None;
        self.refuse_asks();
    }

    /// How long nobody has used it; zero while a call is in flight.
    pub(crate) fn idle_for(&self) -> Duration {
        if self.in_flight() > 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.nanos().saturating_sub(self.last_used.load(Ordering::Relaxed)))
    }

    /// Entries in the book: calls in flight, zombies and the gateway's own requests.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Ends the session when its calls are through.
    pub(crate) fn drain(&self, reason: CloseReason) {
        self.wish(|wishes| wishes.drain = Some(reason));
    }

    /// Ends the session now: its calls are told whether they may have run, and the backend that nobody waits for them.
    pub(crate) fn cut(&self, reason: CloseReason) {
        self.wish(|wishes| wishes.cut = Some(reason));
    }

    /// The ladder is climbed. Lendable at once, so that nobody counts one session as still missing; the driver
    /// follows and wakes who waits. False if it broke meanwhile.
    pub(crate) fn handshaken(&self) -> bool {
        self.proven.store(true, Ordering::SeqCst);
        let (from, to) = (Standing::Initializing as u8, Standing::Ready as u8);
        let _ = self.standing.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        self.wish(|wishes| wishes.handshaken = true);
        self.standing() != Standing::Closed
    }

    /// Whether it can be lent now or soon; while its ladder is being climbed its opening is what counts.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.standing(), Standing::Ready | Standing::Suspect)
    }

    /// Gives its place in the budget back.
    pub(crate) fn leave_budget(&self) {
        let place = lock(&self.place).take();
        drop(place);
    }

    /// Whether it still counts in the budget.
    pub(crate) fn holds_place(&self) -> bool {
        lock(&self.place).is_some()
    }

    /// Runs one call to its answer.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the call: the backend is told, the slot comes back with the answer or after the
    /// grace.
    pub(crate) async fn call(self: Arc<Self>, slot: Slot, call: &Call) -> Outcome {
        let reshaped = Reshaped::of(call, self.era)?;
        let ticket = self.pending.register(slot, call)?;
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

    /// Name and version of the server, as JSON text.
    fn server_info(&self) -> String {
        self.catalog.hello().map_or_else(|| "{}".to_owned(), |hello| hello.server_info.to_string())
    }

    /// A request of the gateway itself.
    pub(crate) async fn request_own(self: &Arc<Self>, method: &str, params: Option<&str>) -> Outcome {
        let ticket = self.pending.register_own()?;
        let exchange = self.outbound.send(probe::own_request(ticket.id, method, params));
        InFlight::new(self.clone(), ticket, exchange, None).answer().await
    }

    /// Does not wait for the rest of an exchange.
    pub(crate) fn finish_later(&self, exchange: Exchange) {
        // Where there is no room for it, its connection is closed.
        let _ = self.errands.try_send(Errand::Finish(exchange));
    }

    /// Says, once per backend, what its server does not offer.
    pub(crate) fn note(&self, quirk: Quirk, why: &str) {
        self.quirks.note(quirk, why);
    }

    /// Passes on a notification or an answer of the agent this session is pinned to.
    pub(crate) fn send_later(&self, message: Bytes) {
        if self.errands.try_send(Errand::Send(message)).is_err() {
            self.reporter.on(Event::Dropped { kind: "notification" });
        }
    }

    /// Tells the backend that a session is over which it may know all the same. Best effort.
    pub(crate) async fn say_farewell(&self, limit: Duration) {
        if self.kind == TransportKind::Http {
            let _ = tokio::time::timeout(limit, self.outbound.close()).await;
        }
    }

    /// One of the sessions of its pool was lost: nobody new is put on this one before it was heard of again.
    pub(crate) fn look(&self) {
        let (ready, suspect) = (Standing::Ready as u8, Standing::Suspect as u8);
        if self.standing.compare_exchange(ready, suspect, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.wish(|wishes| wishes.look = true);
        }
    }

    pub(crate) fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.opened)
    }

    /// The configured age, spread by 10 % so that sessions opened together do not end together.
    pub(crate) fn max_age(&self, configured: Duration) -> Duration {
        configured.mul_f64(0.9 + 0.1 * f64::from(u32::try_from(self.epoch % 16).unwrap_or(0)) / 16.0)
    }

    /// Whether its handshake went through: then its end is an event of its own.
    pub(crate) fn was_proven(&self) -> bool {
        self.proven.load(Ordering::SeqCst)
    }

    pub(crate) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    pub(crate) fn status(&self, now: Instant) -> SessionStatus {
        SessionStatus {
            epoch: self.epoch,
            mode: self.mode,
            standing: self.standing().as_str(),
            in_flight: self.in_flight(),
            pending: self.pending(),
            age: now.saturating_duration_since(self.opened),
        }
    }

    /// What a failed send says about the session as a whole.
    fn report(&self, error: &SendError) {
        if let Some(class) = status_class(&error.cause) {
            self.reporter.on(Event::Status { class });
        }
        // First of all nobody new is put on it; then the driver decides what becomes of it.
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

    /// Any byte of the backend proves that it lives.
    fn heard(&self) {
        self.last_heard.store(self.nanos(), Ordering::SeqCst);
        if self.standing() == Standing::Suspect {
            self.nudge.notify_one();
        }
    }

    /// When a tool call of it was last under way, if ever.
    fn last_tool_call(&self) -> Option<Instant> {
        let at = self.last_tool.load(Ordering::Relaxed);
        match at {
            0 => None,
            // A long call may be the cause at any moment of it.
            _ if self.in_flight() > 0 => Some(clock::now()),
            nanos => Some(self.opened + Duration::from_nanos(nanos)),
        }
    }

    fn last_heard(&self) -> Instant {
        self.opened + Duration::from_nanos(self.last_heard.load(Ordering::SeqCst))
    }

    /// Tells everybody; gives back what they knew so far.
    fn publish(&self, standing: Standing) -> Standing {
        Standing::from_u8(self.standing.swap(standing as u8, Ordering::SeqCst))
    }

    /// The agent answered what nobody asked, or asked no longer.
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

    fn touch(&self) {
        self.last_used.store(self.nanos(), Ordering::Relaxed);
    }

    fn nanos(&self) -> u64 {
        u64::try_from(clock::now().saturating_duration_since(self.opened).as_nanos()).unwrap_or(u64::MAX)
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
