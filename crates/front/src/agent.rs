//! One agent session: who it is, what it has in flight, what waits for it. And the table of all of them.
//!
//! [`AgentCore`] is the part that calls and links hold; it never holds a link, so dropping the agent drops its link.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use futures::task::AtomicWaker;
use mcpool_wire::{Caller, Envelope, IdValue, Link, LinkEvent, Message, Outlet, OutletFull, Target};
use tokio::sync::mpsc;

use crate::{
    common::Common,
    incoming::Incoming,
    observe::{AgentEnd, FrontEvent, Gauges, Transport},
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
    last_seen: AtomicU64,
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

/// All agent sessions of one front.
pub(crate) struct Agents<L> {
    table: DashMap<AgentSessionId, Arc<Agent<L>>>,
    /// HTTP+SSE agents whose stream is gone and who may come back, oldest first.
    away: Mutex<VecDeque<AgentSessionId>>,
    common: Arc<Common>,
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

impl<L: Link> Agents<L> {
    pub(crate) fn new(common: Arc<Common>) -> Self {
        Self { table: DashMap::new(), away: Mutex::default(), common }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.table.len() >= self.common.config.limits.agent_sessions
    }

    pub(crate) fn insert(&self, agent: Agent<L>) -> Arc<Agent<L>> {
        let agent = Arc::new(agent);
        let core = &agent.core;
        self.table.insert(core.id, Arc::clone(&agent));
        Gauges::up(self.common.gauges.agents(core.transport), 1);
        self.common.emit(&FrontEvent::AgentOpened {
            agent: core.caller.agent,
            transport: core.transport,
            backend: &core.target.name,
        });
        agent
    }

    /// The agent session of this id, if it lives and speaks this transport.
    pub(crate) fn find(&self, id: &str, transport: Transport) -> Option<Arc<Agent<L>>> {
        let id = AgentSessionId::parse(id)?;
        let agent = Arc::clone(self.table.get(&id)?.value());
        if agent.core.transport != transport {
            return None;
        }
        if agent.core.has_ended() {
            // An SSE agent's own task removes it, once its calls have told their end.
            if transport == Transport::Http {
                self.remove(id, AgentEnd::LinkEnded);
            }
            return None;
        }
        agent.core.seen();
        Some(agent)
    }

    /// An HTTP+SSE agent lost its stream and may come back. Executors that open a session per call leave thousands
    /// behind within the grace: beyond a quarter of the limit the longest absent one is not waited for.
    pub(crate) fn went_away(&self, id: AgentSessionId) {
        let most = (self.common.config.limits.agent_sessions / 4).max(1);
        let mut given_up = Vec::new();
        {
            let mut away = lock(&self.away);
            away.push_back(id);
            // Two out for one in: those that came back or ended do not pile up.
            for _ in 0..2 {
                let Some(oldest) = away.front().copied() else { break };
                let absent = oldest != id && self.is_absent(oldest);
                if absent && away.len() <= most {
                    break;
                }
                if oldest != id || away.len() > most {
                    away.pop_front();
                }
                if absent {
                    given_up.push(oldest);
                }
            }
        }
        for oldest in given_up {
            self.remove(oldest, AgentEnd::Gone);
        }
    }

    fn is_absent(&self, id: AgentSessionId) -> bool {
        let Some(agent) = self.table.get(&id).map(|entry| Arc::clone(entry.value())) else { return false };
        agent.core.outbox.presence() == Presence::Absent && agent.core.is_idle()
    }

    /// Ends an agent session: its stream, its calls, and with the last handle its link.
    pub(crate) fn remove(&self, id: AgentSessionId, reason: AgentEnd) -> bool {
        let Some((_, agent)) = self.table.remove(&id) else { return false };
        let core = &agent.core;
        core.outbox.close();
        core.cancel_all();
        Gauges::down(self.common.gauges.agents(core.transport), 1);
        self.common.emit(&FrontEvent::AgentClosed {
            agent: core.caller.agent,
            transport: core.transport,
            reason,
        });
        true
    }

    /// Ends what was idle too long or lost its link. SSE agents are ended by their own stream.
    pub(crate) fn sweep(&self, idle: Duration) {
        let now = self.common.millis();
        let limit = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        for (id, core) in self.snapshot() {
            let since = now.saturating_sub(core.last_seen.load(Ordering::Relaxed));
            let attached = matches!(core.outbox.presence(), Presence::Attached(_));
            if core.transport == Transport::Http && core.has_ended() {
                self.remove(id, AgentEnd::LinkEnded);
            } else if core.transport == Transport::Http && since >= limit && !attached && core.is_idle() {
                self.remove(id, AgentEnd::Idle);
            }
        }
    }

    /// Ends the streams of agents that wait for nothing; the others' as soon as their calls have ended.
    pub(crate) fn close_idle_streams(&self) {
        for (_, core) in self.snapshot() {
            match core.transport {
                Transport::Sse => core.outbox.finish(),
                Transport::Http | Transport::Other if core.is_idle() => core.outbox.close(),
                Transport::Http | Transport::Other => {}
            }
        }
    }

    pub(crate) fn remove_all(&self) {
        for (id, _) in self.snapshot() {
            self.remove(id, AgentEnd::Shutdown);
        }
    }

    // Copied out, so that no shard is locked while sessions are looked at.
    fn snapshot(&self) -> Vec<(AgentSessionId, Arc<AgentCore>)> {
        self.table.iter().map(|entry| (*entry.key(), Arc::clone(&entry.value().core))).collect()
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
