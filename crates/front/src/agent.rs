//! One agent session: who it is, what it has in flight, what waits for it.
//!
//! [`AgentCore`] is the part that calls and links hold; it never holds a link, so dropping the agent drops its link.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use mcpool_wire::{Caller, Envelope, IdValue, LinkEvent, Message, Outlet, OutletFull, Target};
use tokio::sync::mpsc;

use crate::{
    common::Common,
    incoming::Incoming,
    observe::{FrontEvent, Gauges, Transport},
    outbox::{Outbox, Presence, Refused, Weight},
    session_id::AgentSessionId,
    sse_body::one_line,
};

/// Server requests one agent may owe an answer at a time.
const MAX_ASKED: usize = 64;

/// The part of an agent session that does not know what lies behind.
pub(crate) struct AgentCore {
    pub(crate) id: AgentSessionId,
    pub(crate) caller: Arc<Caller>,
    pub(crate) target: Target,
    pub(crate) transport: Transport,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) common: Arc<Common>,
    inflight: Mutex<HashMap<IdValue, Arc<CancelFlag>>>,
    asked: Mutex<Asked>,
    pub(crate) last_seen: AtomicU64,
    ended: AtomicBool,
}

/// One agent session.
pub(crate) struct Agent<L> {
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
    Sse { work: mpsc::Sender<Box<Incoming>> },
}

/// Tells one call that its agent no longer wants the answer.
#[derive(Default)]
pub(crate) struct CancelFlag {
    cancelled: AtomicBool,
    waker: AtomicWaker,
}

/// A request id in use; dropping it frees the id.
pub(crate) struct InFlight {
    pub(crate) core: Arc<AgentCore>,
    pub(crate) flag: Arc<CancelFlag>,
    id: IdValue,
}

/// Why a request id cannot be used.
pub(crate) enum Busy {
    Duplicate,
    TooMany(usize),
}

#[derive(Default)]
struct Asked {
    last: i64,
    open: Vec<(i64, u64)>,
}

impl AgentCore {
    pub(crate) fn new(
        id: AgentSessionId,
        caller: Arc<Caller>,
        target: Target,
        transport: Transport,
        common: Arc<Common>,
    ) -> Self {
        let limits = common.config.limits;
        let outbox = Outbox::new(limits.outbound_messages, limits.outbound_bytes, Arc::clone(&common.gauges));
        Self {
            id,
            caller,
            target,
            transport,
            outbox: Arc::new(outbox),
            inflight: Mutex::default(),
            asked: Mutex::default(),
            last_seen: AtomicU64::new(common.millis()),
            ended: AtomicBool::new(false),
            common,
        }
    }

    /// Takes a request id for as long as its call runs.
    pub(crate) fn begin(self: &Arc<Self>, id: &IdValue) -> Result<InFlight, Busy> {
        let limit = self.common.config.limits.calls_per_agent;
        let mut inflight = lock(&self.inflight);
        if inflight.contains_key(id) {
            return Err(Busy::Duplicate);
        }
        if inflight.len() >= limit {
            return Err(Busy::TooMany(limit));
        }
        let flag = Arc::new(CancelFlag::default());
        inflight.insert(id.clone(), Arc::clone(&flag));
        Gauges::up(&self.common.gauges.calls, 1);
        Ok(InFlight { core: Arc::clone(self), flag, id: id.clone() })
    }

    /// Cancels one call of this agent, if it still runs.
    pub(crate) fn cancel(&self, id: &IdValue) {
        let flag = lock(&self.inflight).get(id).cloned();
        if let Some(flag) = flag {
            flag.cancel();
        }
    }

    pub(crate) fn cancel_all(&self) {
        let flags: Vec<_> = lock(&self.inflight).values().cloned().collect();
        for flag in flags {
            flag.cancel();
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.inflight).is_empty()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn seen(&self) {
        self.last_seen.store(self.common.millis(), Ordering::Relaxed);
    }

    /// The link's number for the server request the agent answers with this id.
    pub(crate) fn answered(&self, id: &IdValue) -> Option<u64> {
        let (id, _) = id.as_number_lenient()?;
        let mut asked = lock(&self.asked);
        let at = asked.open.iter().position(|(ours, _)| *ours == id)?;
        Some(asked.open.swap_remove(at).1)
    }

    /// Delivers one event of the link to `outbox`: the agent's own, or that of the call it belongs to.
    pub(crate) fn deliver(&self, outbox: &Outbox, event: LinkEvent) -> Result<(), OutletFull> {
        match event {
            LinkEvent::Progress(bytes) => {
                let weight = Weight::Progress(token_hash(&bytes));
                self.push(outbox, weight, bytes, "progress")
            }
            LinkEvent::Notification(bytes) => self.push(outbox, Weight::Droppable, bytes, "notification"),
            LinkEvent::Request { id, message } => self.ask(outbox, id, &message),
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
    pub(crate) fn answer(&self, bytes: Bytes) {
        if self.outbox.push(Weight::Must, one_line(bytes)) == Err(Refused::Overflowed) {
            self.common.emit(&FrontEvent::SlowAgentClosed);
        }
    }

    fn ask(&self, outbox: &Outbox, link_id: u64, message: &Message) -> Result<(), OutletFull> {
        let id = {
            let mut asked = lock(&self.asked);
            if asked.open.len() >= MAX_ASKED {
                None
            } else {
                asked.last += 1;
                let id = asked.last;
                asked.open.push((id, link_id));
                Some(id)
            }
        };
        let Some(id) = id else {
            self.common.dropped("server_request");
            return Err(OutletFull);
        };
        let sent =
            self.push(outbox, Weight::Must, message.with_id(id.to_string().as_bytes()), "server_request");
        if sent.is_err() {
            lock(&self.asked).open.retain(|(ours, _)| *ours != id);
        }
        sent
    }

    fn push(
        &self,
        outbox: &Outbox,
        weight: Weight,
        bytes: Bytes,
        kind: &'static str,
    ) -> Result<(), OutletFull> {
        // Without a stream there is nobody to read it; an SSE agent that is away for a moment will be back.
        let pushed = if self.transport == Transport::Http && outbox.presence() == Presence::Absent {
            Err(Refused::Dropped)
        } else {
            outbox.push(weight, one_line(bytes))
        };
        match pushed {
            Ok(()) => return Ok(()),
            Err(Refused::Overflowed) => self.common.emit(&FrontEvent::SlowAgentClosed),
            Err(Refused::Dropped | Refused::Closed) => {}
        }
        self.common.dropped(kind);
        Err(OutletFull)
    }
}

impl Outlet for AgentCore {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        self.deliver(&self.outbox, event)
    }
}

impl CancelFlag {
    pub(crate) fn is_set(&self, waker: &std::task::Waker) -> bool {
        self.waker.register(waker);
        self.cancelled.load(Ordering::Acquire)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.core.inflight).remove(&self.id);
        Gauges::down(&self.core.common.gauges.calls, 1);
        self.core.seen();
    }
}

fn token_hash(progress: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(envelope) = Envelope::parse(progress)
        && let Some(token) = envelope.params.progress_token
    {
        token.get().hash(&mut hasher);
    }
    hasher.finish()
}

// What these locks guard is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
