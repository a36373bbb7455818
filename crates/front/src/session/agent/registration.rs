//! Calls in flight of one agent: their ids, their limits, and the flag that ends them.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use mcpool_wire::{CallError, ErrorKind, Executed, IdValue};
use tokio::time::Instant;

use super::{AgentCore, lock};
use crate::{
    limits::{
        gauges::Gauges,
        per_principal::{Share, TooMany},
    },
    session::{census::CallNote, same_request::is_same},
    stream::outbox::Outbox,
};

/// The flag that stops one call; also describes the call to others.
#[derive(Default)]
pub(crate) struct CancelFlag {
    reason: AtomicU8,
    waker: AtomicWaker,
    /// A description of the call, for operators.
    pub(crate) note: OnceLock<CallNote>,
    /// The request, to recognise a repeated one.
    pub(crate) message: Bytes,
    /// The stream of its answer, once the call is detached.
    pub(crate) stream: OnceLock<Weak<Outbox>>,
}

/// The reason a call must end. The greater one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum StopReason {
    /// Shutdown: only calls that were sent may go on.
    UnlessSent = 1,
    /// Shutdown: the drain time is over.
    Now = 2,
    /// The agent cancelled it.
    Cancelled = 3,
}

/// A request id in use, with its share of the limits; released on drop.
pub(crate) struct CallRegistration {
    pub(crate) core: Arc<AgentCore>,
    pub(crate) flag: Arc<CancelFlag>,
    pub(crate) id: IdValue,
    since: Instant,
    _share: Option<Share>,
}

/// The reason a call cannot begin.
pub(crate) enum BeginError {
    /// Another request with this id is in flight.
    Duplicate,
    /// The same request is in flight.
    Repeated,
    /// The agent has this many calls in flight; one should end after about this time.
    TooMany(usize, Duration),
    /// The principal has this many, over all its agents.
    TooManyOfPrincipal(usize, Duration),
}

impl AgentCore {
    /// Registers a call under the id of its request.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: &IdValue,
        message: &Bytes,
    ) -> Result<CallRegistration, BeginError> {
        let limit = self.common.limits().calls_per_agent;
        let mut inflight = lock(&self.inflight);
        if let Some(flag) = inflight.get(id).cloned() {
            // Compared without the lock.
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

    /// The call in flight under this id.
    pub(crate) fn running(&self, id: &IdValue) -> Option<Arc<CancelFlag>> {
        lock(&self.inflight).get(id).cloned()
    }

    /// Registers a call of a caller without a session. Only the principal's limit applies: each such call holds a
    /// connection.
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

    /// Cancels the call with this id, if it is in flight.
    pub(crate) fn cancel(&self, id: &IdValue) {
        let flag = lock(&self.inflight).get(id).cloned();
        if let Some(flag) = flag {
            flag.set(StopReason::Cancelled);
        }
    }

    /// Stops all its calls.
    pub(crate) fn stop_calls(&self, why: StopReason) {
        for flag in self.flags() {
            flag.set(why);
        }
    }

    /// The flags of its calls in flight.
    pub(crate) fn flags(&self) -> Vec<Arc<CancelFlag>> {
        lock(&self.inflight).values().cloned().collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.inflight).is_empty()
    }

    pub(crate) fn in_flight(&self) -> usize {
        lock(&self.inflight).len()
    }
}

impl BeginError {
    /// The error for the agent.
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
    /// The reason set so far; the next one wakes this waker.
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
