//! One agent session: who it is, what it has in flight, what waits for it.
//!
//! [`AgentCore`] is the part that calls and links hold; it never holds a link, so dropping the agent drops its link.

mod owner;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use mcpool_wire::{
    CallError, Caller, ErrorKind, Executed, IdValue, LinkEvent, Message, Outlet, OutletFull, Revision, Target,
};
use tokio::{sync::mpsc, time::Instant};

use self::owner::Owner;
use crate::{
    forwarded_headers::Carried,
    limits::{
        gauges::Gauges,
        per_principal::{Share, TooMany},
        places::SessionPermit,
    },
    message::Parcel,
    observe::{FrontEvent, Transport},
    session::{
        census::{CallNote, Profile},
        same_request::is_same,
        unclaimed::Unclaimed,
    },
    session_id::AgentSessionId,
    shared::Common,
    stream::{
        drop_policy::DropPolicy,
        event::{EventId, one_line},
        open_streams::{OpenStreams, StreamStatus},
        outbox::{Outbox, Reader, Refused, Stream, Taken},
        replay::{LISTENING, Replay},
    },
};

/// Server requests one agent may owe an answer at a time.
const MAX_SERVER_REQUESTS: usize = 64;

/// The part of an agent session that does not know what lies behind.
pub(crate) struct AgentCore {
    /// Who it is, with what it was opened with.
    pub(crate) caller: Arc<Caller>,
    /// With what it was opened, and with what it comes now.
    owner: Owner,
    pub(crate) target: Target,
    pub(crate) transport: Transport,
    pub(crate) profile: Profile,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) common: Arc<Common>,
    /// Of agents that can resume a stream: those of Streamable HTTP.
    replay: Option<Arc<Replay>>,
    /// What its last `initialize` agreed on.
    revision: Mutex<Option<Revision>>,
    inflight: Mutex<HashMap<IdValue, Arc<CancelFlag>>>,
    /// The last number given to a call whose caller has no session: ids of different callers may be the same.
    joined: AtomicI64,
    /// The streams of its calls.
    streams: OpenStreams,
    server_requests: Mutex<ServerRequests>,
    pub(crate) unclaimed: Unclaimed,
    pub(crate) last_seen: AtomicU64,
    ended: AtomicBool,
    /// There are only so many, in all and of its peer; given back when the session ends, whoever still holds it.
    permit: Mutex<Option<SessionPermit>>,
}

/// One agent session.
pub(crate) struct Agent<L> {
    /// Made when it is known what it must say: the core is there before.
    pub(crate) id: AgentSessionId,
    pub(crate) core: Arc<AgentCore>,
    pub(crate) side: Side<L>,
}

/// Where an agent's messages go.
pub(crate) enum Side<L> {
    /// Streamable HTTP: straight to its link.
    Http {
        link: Arc<L>,
        /// Whether a server may ask it things while a call runs.
        interactive: bool,
    },
    /// HTTP+SSE: to the task that owns its stream.
    Sse { work: mpsc::Sender<Box<Parcel>> },
}

/// Tells one call that it is to end, and why; and others what was asked.
#[derive(Default)]
pub(crate) struct CancelFlag {
    reason: AtomicU8,
    waker: AtomicWaker,
    /// Where there is a call to tell of.
    pub(crate) note: OnceLock<CallNote>,
    /// The request, to know it again.
    pub(crate) message: Bytes,
    /// The stream its answer goes to, where its connection does not hold it any more.
    pub(crate) stream: OnceLock<Weak<Outbox>>,
}

/// Why a call is to end. The greater word stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum StopReason {
    /// The gateway ends, and waits for what runs only.
    UnlessSent = 1,
    /// The gateway waits no longer.
    Now = 2,
    /// Its agent no longer wants the answer.
    Cancelled = 3,
}

/// What a `Last-Event-ID` leads to.
pub(crate) enum Resume {
    /// What came after it, and the rest of its stream.
    Stream(Reader),
    /// Nothing: its stream is over and was read, or is forgotten.
    Over,
    /// No event of this session.
    Unknown,
}

/// A request id in use; dropping it frees the id.
pub(crate) struct CallRegistration {
    pub(crate) core: Arc<AgentCore>,
    pub(crate) flag: Arc<CancelFlag>,
    pub(crate) id: IdValue,
    since: Instant,
    _share: Option<Share>,
}

/// Why a request id cannot be used.
pub(crate) enum BeginError {
    /// Another request runs under it.
    Duplicate,
    /// The same request runs under it.
    Repeated,
    /// The agent has this many in flight, and one will end after about this time.
    TooMany(usize, Duration),
    /// Its principal has, over all its agents.
    TooManyOfPrincipal(usize, Duration),
}

#[derive(Default)]
struct ServerRequests {
    last: i64,
    open: Vec<(i64, u64)>,
}

impl AgentCore {
    pub(crate) fn new(
        caller: Arc<Caller>,
        target: Target,
        transport: Transport,
        (peer, permit): (IpAddr, Option<SessionPermit>),
        (carried, opened_with): (Carried, u32),
        common: Arc<Common>,
    ) -> Self {
        let replay = (transport == Transport::Http)
            .then(|| Arc::new(Replay::new(&common.in_force().config, Arc::clone(&common.memory))));
        let listening =
            replay.as_ref().map(|replay| Stream { replay: Arc::clone(replay), number: LISTENING });
        let outbox = Outbox::new(&common.limits(), Arc::clone(&common.memory), listening);
        Self {
            owner: Owner::new(&caller, carried, opened_with),
            caller,
            target,
            transport,
            profile: Profile::new(peer),
            outbox: Arc::new(outbox),
            inflight: Mutex::default(),
            joined: AtomicI64::new(0),
            streams: OpenStreams::default(),
            server_requests: Mutex::default(),
            unclaimed: Unclaimed::default(),
            replay,
            revision: Mutex::default(),
            last_seen: AtomicU64::new(common.millis()),
            ended: AtomicBool::new(false),
            permit: Mutex::new(permit),
            common,
        }
    }

    /// Takes the id of this request for as long as its call runs.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: &IdValue,
        message: &Bytes,
    ) -> Result<CallRegistration, BeginError> {
        let limit = self.common.limits().calls_per_agent;
        let mut inflight = lock(&self.inflight);
        if let Some(flag) = inflight.get(id).cloned() {
            // Nobody waits while they are compared.
            drop(inflight);
            return Err(if is_same(&flag.message, message) {
                BeginError::Repeated
            } else {
                BeginError::Duplicate
            });
        }
        if inflight.len() >= limit {
            return Err(BeginError::TooMany(limit, self.common.principals.next_end(limit)));
        }
        self.enter(&mut inflight, id.clone(), message.clone())
    }

    /// The call that runs under this id.
    pub(crate) fn running(&self, id: &IdValue) -> Option<Arc<CancelFlag>> {
        lock(&self.inflight).get(id).cloned()
    }

    /// Takes part for as long as one call of a caller without session runs. How many there may be is for its principal
    /// to say: each holds a connection.
    pub(crate) fn join(self: &Arc<Self>) -> Result<CallRegistration, BeginError> {
        let id = IdValue::Num(self.joined.fetch_add(1, Ordering::Relaxed));
        self.enter(&mut lock(&self.inflight), id, Bytes::new())
    }

    fn enter(
        self: &Arc<Self>,
        inflight: &mut HashMap<IdValue, Arc<CancelFlag>>,
        id: IdValue,
        message: Bytes,
    ) -> Result<CallRegistration, BeginError> {
        let share = self.common.principals.take(&self.caller).map_err(|TooMany(limit)| {
            BeginError::TooManyOfPrincipal(limit, self.common.principals.next_end(limit))
        })?;
        let flag = Arc::new(CancelFlag { message, ..CancelFlag::default() });
        inflight.insert(id.clone(), Arc::clone(&flag));
        Gauges::up(&self.common.gauges.calls, 1);
        Ok(CallRegistration { core: Arc::clone(self), flag, id, since: Instant::now(), _share: share })
    }

    /// Cancels one call of this agent, if it still runs.
    pub(crate) fn cancel(&self, id: &IdValue) {
        let flag = lock(&self.inflight).get(id).cloned();
        if let Some(flag) = flag {
            flag.set(StopReason::Cancelled);
        }
    }

    /// Tells all its calls that they are to end.
    pub(crate) fn stop_calls(&self, why: StopReason) {
        for flag in self.flags() {
            flag.set(why);
        }
    }

    /// Those of its calls in flight.
    pub(crate) fn flags(&self) -> Vec<Arc<CancelFlag>> {
        lock(&self.inflight).values().cloned().collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.inflight).is_empty()
    }

    pub(crate) fn in_flight(&self) -> usize {
        lock(&self.inflight).len()
    }

    pub(crate) fn revision(&self) -> Option<Revision> {
        *lock(&self.revision)
    }

    pub(crate) fn agreed_on(&self, revision: Revision) {
        *lock(&self.revision) = Some(revision);
    }

    /// The stream of a POST.
    pub(crate) fn call_outbox(&self) -> Arc<Outbox> {
        self.streams.insert(|number| {
            let stream = self.replay.as_ref().map(|replay| Stream { replay: Arc::clone(replay), number });
            Arc::new(Outbox::new(&self.common.limits(), Arc::clone(&self.common.memory), stream))
        })
    }

    /// Takes up a stream behind one of its events.
    pub(crate) fn resume(&self, id: EventId) -> Result<Resume, Taken> {
        let Some(replay) = &self.replay else { return Ok(Resume::Unknown) };
        if id.stream == LISTENING {
            return Ok(self.outbox.request(Some(id.seq))?.map_or(Resume::Unknown, Resume::Stream));
        }
        match self.streams.find(id.stream) {
            StreamStatus::Never => return Ok(Resume::Unknown),
            StreamStatus::Live(outbox) => {
                if let Some(reader) = outbox.request(Some(id.seq))? {
                    return Ok(Resume::Stream(reader));
                }
            }
            StreamStatus::Over => {}
        }
        let left = replay.after(id);
        if left.is_empty() {
            return Ok(Resume::Over);
        }
        let stream = Stream { replay: Arc::clone(replay), number: id.stream };
        let memory = Arc::clone(&self.common.memory);
        let over = Arc::new(Outbox::new(&self.common.limits(), memory, Some(stream)));
        Ok(Resume::Stream(over.past(left, id.seq)))
    }

    /// Gives its place to others.
    pub(crate) fn leave(&self) {
        drop(lock(&self.permit).take());
    }

    /// Ends its stream and its calls, and forgets what it was sent.
    pub(crate) fn end(&self) {
        self.leave();
        self.outbox.close();
        self.stop_calls(StopReason::Cancelled);
        if let Some(replay) = &self.replay {
            replay.end();
        }
    }

    /// Lets go of what nobody will resume any more.
    pub(crate) fn sweep(&self) {
        if let Some(replay) = &self.replay {
            replay.sweep();
            self.streams.sweep();
            self.outbox.sweep();
        }
    }

    /// Whether this agent may send batches.
    pub(crate) fn may_batch(&self) -> Result<(), String> {
        match self.revision() {
            Some(Revision::V2025_03_26) => Ok(()),
            Some(other) => Err(format!("revision {other} has no batches: send one message per request")),
            None => {
                Err("batches need a session of revision 2025-03-26: send initialize alone, first".to_owned())
            }
        }
    }

    /// Its streams: its own, and those of its calls.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let mut all = self.streams.all();
        all.push(Arc::clone(&self.outbox));
        all
    }

    /// Gives up what is kept for a resume; whether there was anything.
    pub(crate) fn forget_replay(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.forget())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn seen(&self) {
        self.last_seen.store(self.common.millis(), Ordering::Relaxed);
    }

    /// The link's number for the server request the agent answers with this id.
    pub(crate) fn take_link_id(&self, id: &IdValue) -> Option<u64> {
        let (id, _) = id.as_number_lenient()?;
        let mut server_requests = lock(&self.server_requests);
        let at = server_requests.open.iter().position(|(ours, _)| *ours == id)?;
        Some(server_requests.open.swap_remove(at).1)
    }

    /// Delivers one event of the link to `outbox`: the agent's own, or that of the call it belongs to.
    pub(crate) fn deliver(&self, outbox: &Outbox, event: LinkEvent) -> Result<(), OutletFull> {
        match event {
            LinkEvent::Progress(bytes) => self.push(outbox, DropPolicy::of_progress(&bytes), bytes),
            LinkEvent::Notification(bytes) => self.push(outbox, DropPolicy::of_notification(&bytes), bytes),
            LinkEvent::Request { id, message } => self.ask(outbox, id, &message),
            LinkEvent::Withdrawn { id, reason } => self.withdraw(outbox, id, reason),
            LinkEvent::Paused(wait) => {
                // An HTTP+SSE session is one stream: who leaves it for a while loses everything else with it.
                if self.transport != Transport::Sse {
                    outbox.dismiss(wait);
                }
                Ok(())
            }
            LinkEvent::Owned(values) => {
                self.becomes_own(values);
                Ok(())
            }
            LinkEvent::Ended(_) => {
                self.ended.store(true, Ordering::Relaxed);
                match self.transport {
                    // Its calls still tell what became of them.
                    Transport::Sse => self.outbox.finish(),
                    Transport::Http | Transport::Other => self.outbox.close(),
                }
                Ok(())
            }
        }
    }

    /// Queues a message that must arrive.
    pub(crate) fn send_answer(&self, bytes: Bytes) {
        self.send_answer_on(&self.outbox, bytes);
    }

    /// Queues an answer on the stream of its call.
    pub(crate) fn send_answer_on(&self, outbox: &Outbox, bytes: Bytes) {
        match outbox.push(DropPolicy::Required, one_line(bytes)) {
            Ok(gone) => self.logs_dropped(gone),
            Err(Refused::Overflowed) => self.common.emit(&FrontEvent::SlowAgentClosed),
            Err(Refused::Dropped | Refused::Closed) => {}
        }
    }

    fn ask(&self, outbox: &Outbox, link_id: u64, message: &Message) -> Result<(), OutletFull> {
        let id = {
            let mut server_requests = lock(&self.server_requests);
            if server_requests.open.len() >= MAX_SERVER_REQUESTS {
                None
            } else {
                server_requests.last += 1;
                let id = server_requests.last;
                server_requests.open.push((id, link_id));
                Some(id)
            }
        };
        let Some(id) = id else {
            self.common.dropped("server_request");
            return Err(OutletFull);
        };
        let sent = self.push(outbox, DropPolicy::Required, message.with_id(id.to_string().as_bytes()));
        if sent.is_err() {
            lock(&self.server_requests).open.retain(|(ours, _)| *ours != id);
        }
        sent
    }

    /// Tells the agent that nobody waits for its answer any more; an answer that comes all the same is dropped.
    fn withdraw(&self, outbox: &Outbox, link_id: u64, reason: &str) -> Result<(), OutletFull> {
        let id = {
            let mut server_requests = lock(&self.server_requests);
            let at = server_requests.open.iter().position(|(_, theirs)| *theirs == link_id);
            at.map(|at| server_requests.open.swap_remove(at).0)
        };
        let Some(id) = id else { return Ok(()) };
        let message = Bytes::from(format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\
             \"reason\":\"{reason}\"}}}}"
        ));
        self.push(outbox, DropPolicy::of_notification(&message), message)
    }

    fn push(&self, outbox: &Outbox, policy: DropPolicy, bytes: Bytes) -> Result<(), OutletFull> {
        match outbox.push(policy, one_line(bytes)) {
            Ok(gone) => {
                self.logs_dropped(gone);
                return Ok(());
            }
            Err(Refused::Overflowed) => self.common.emit(&FrontEvent::SlowAgentClosed),
            Err(Refused::Dropped | Refused::Closed) => {}
        }
        self.common.dropped(policy.kind());
        Err(OutletFull)
    }

    fn logs_dropped(&self, gone: usize) {
        for _ in 0..gone {
            self.common.dropped(DropPolicy::Log.kind());
        }
    }
}

impl Outlet for AgentCore {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        self.deliver(&self.outbox, event)
    }
}

impl BeginError {
    /// What the agent is told.
    pub(crate) fn error(&self) -> CallError {
        match self {
            Self::Duplicate => CallError::not_sent(
                ErrorKind::InvalidRequest,
                "a request with this id is already in flight on this session",
            ),
            Self::Repeated => CallError::not_sent(
                ErrorKind::InvalidRequest,
                "this request is already running: its answer goes to the connection that sent it first",
            )
            .executed(Executed::Maybe),
            Self::TooMany(limit, after) => CallError::not_sent(
                ErrorKind::Overloaded,
                format!("this agent session already has {limit} requests in flight"),
            )
            .retry_after(*after),
            Self::TooManyOfPrincipal(limit, after) => CallError::not_sent(
                ErrorKind::Overloaded,
                format!("the agents of this principal already have {limit} requests in flight"),
            )
            .retry_after(*after),
        }
    }
}

impl CancelFlag {
    /// What was said so far; whoever waits is woken by the next word.
    pub(crate) fn reason(&self, waker: &std::task::Waker) -> Option<StopReason> {
        self.waker.register(waker);
        match self.reason.load(Ordering::Acquire) {
            0 => None,
            1 => Some(StopReason::UnlessSent),
            2 => Some(StopReason::Now),
            _ => Some(StopReason::Cancelled),
        }
    }

    fn set(&self, reason: StopReason) {
        self.reason.fetch_max(reason as u8, Ordering::AcqRel);
        self.waker.wake();
    }
}

impl Drop for CallRegistration {
    fn drop(&mut self) {
        lock(&self.core.inflight).remove(&self.id);
        self.core.common.principals.ended(self.since.elapsed());
        Gauges::down(&self.core.common.gauges.calls, 1);
        self.core.seen();
    }
}

// What these locks guard is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
