//! One agent session: its caller, its calls in flight, and the messages that wait for it.
//!
//! [`AgentCore`] is the part that calls and links hold; it never holds a link, so dropping the agent drops its link.

mod outlet;
mod owner;
mod registration;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use mcpool_wire::{Caller, IdValue, Revision, Target};
use tokio::sync::mpsc;

pub(crate) use self::registration::{BeginError, CallRegistration, CancelFlag, StopReason};
use self::{outlet::ServerRequests, owner::Owner};
use crate::{
    forwarded_headers::Carried,
    limits::places::SessionPermit,
    message::Parcel,
    observe::Transport,
    session::{census::Profile, unclaimed::Unclaimed},
    session_id::AgentSessionId,
    shared::Common,
    stream::{
        event::EventId,
        open_streams::{OpenStreams, StreamStatus},
        outbox::{Outbox, Reader, Stream, Taken},
        replay::{LISTENING, Replay},
    },
};

/// The core of an agent session: everything but its link.
pub(crate) struct AgentCore {
    /// The caller, with the headers the session was opened with.
    pub(crate) caller: Arc<Caller>,
    /// The headers it was opened with, and those of its latest request.
    owner: Owner,
    pub(crate) target: Target,
    pub(crate) transport: Transport,
    pub(crate) profile: Profile,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) common: Arc<Common>,
    /// Events stored for a resume; only for Streamable HTTP.
    replay: Option<Arc<Replay>>,
    /// The revision of its last `initialize`.
    revision: Mutex<Option<Revision>>,
    inflight: Mutex<HashMap<IdValue, Arc<CancelFlag>>>,
    /// The last number given to a call over a shared link: ids of different callers may be equal.
    joined: AtomicI64,
    /// Open streams of its calls.
    streams: OpenStreams,
    server_requests: Mutex<ServerRequests>,
    pub(crate) unclaimed: Unclaimed,
    pub(crate) last_seen: AtomicU64,
    ended: AtomicBool,
    /// The permit of this session; released when the session ends, whoever still holds the core.
    permit: Mutex<Option<SessionPermit>>,
}

/// One agent session.
pub(crate) struct Agent<L> {
    /// Sealed when its claims are known, which is after the core is made.
    pub(crate) id: AgentSessionId,
    pub(crate) core: Arc<AgentCore>,
    pub(crate) side: Side<L>,
}

/// The place an agent's messages go to.
pub(crate) enum Side<L> {
    /// Streamable HTTP: straight to its link.
    Http {
        link: Arc<L>,
        /// Whether a server may ask the agent while a call runs.
        interactive: bool,
    },
    /// HTTP+SSE: to the task that owns its stream.
    Sse { work: mpsc::Sender<Box<Parcel>> },
}

/// The result of a look-up by `Last-Event-ID`.
pub(crate) enum Resume {
    /// The events after it, and the rest of its stream.
    Stream(Reader),
    /// Nothing is left: its stream is over and was read, or was dropped.
    Over,
    /// The id names no event of this session.
    Unknown,
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

    pub(crate) fn revision(&self) -> Option<Revision> {
        *lock(&self.revision)
    }

    pub(crate) fn agreed_on(&self, revision: Revision) {
        *lock(&self.revision) = Some(revision);
    }

    /// Opens the stream of a POST.
    pub(crate) fn call_outbox(&self) -> Arc<Outbox> {
        self.streams.insert(|number| {
            let stream = self.replay.as_ref().map(|replay| Stream { replay: Arc::clone(replay), number });
            Arc::new(Outbox::new(&self.common.limits(), Arc::clone(&self.common.memory), stream))
        })
    }

    /// Resumes a stream after one of its events.
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

    /// Releases the permit of this session.
    pub(crate) fn leave(&self) {
        drop(lock(&self.permit).take());
    }

    /// Ends its streams and calls, and drops stored events.
    pub(crate) fn end(&self) {
        self.leave();
        self.outbox.close();
        self.stop_calls(StopReason::Cancelled);
        if let Some(replay) = &self.replay {
            replay.end();
        }
    }

    /// Drops events and streams that can no longer be resumed.
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

    /// All its streams: its own and those of its calls.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let mut all = self.streams.all();
        all.push(Arc::clone(&self.outbox));
        all
    }

    /// Drops the events stored for a resume. `false` if there were none.
    pub(crate) fn forget_replay(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.forget())
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn seen(&self) {
        self.last_seen.store(self.common.millis(), Ordering::Relaxed);
    }
}

// Consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
