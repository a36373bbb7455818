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

impl AgentCore {
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
