//! The stream of one POST: what its calls say before their answers. It is opened by the first thing that is said, so a
//! call that is just answered pays one allocation for the chance of it.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use mcpool_wire::{LinkEvent, Outlet, OutletFull, Revision};

use crate::{
    http::{response::Response, response_body::priming_event},
    session::agent::AgentCore,
    stream::outbox::{Outbox, Reader},
};

pub(crate) struct CallStream {
    core: Arc<AgentCore>,
    /// Whether a server may ask this agent things.
    interactive: bool,
    /// Whether its agent wants a stream in any case, and knows how to come back to it.
    polls: bool,
    /// Nothing inside: the POST is gone, there will be no stream.
    opened: OnceLock<Option<Arc<Outbox>>>,
    waker: AtomicWaker,
}

impl CallStream {
    pub(crate) fn new(core: &Arc<AgentCore>, interactive: bool) -> Arc<Self> {
        Arc::new(Self::unopened(core, interactive))
    }

    /// Open before anything was said.
    pub(crate) fn open(core: &Arc<AgentCore>, interactive: bool) -> Arc<Self> {
        let polls = core.revision() == Some(Revision::V2025_11_25);
        let opened = OnceLock::from(Some(core.call_outbox()));
        Arc::new(Self { polls, opened, ..Self::unopened(core, interactive) })
    }

    fn unopened(core: &Arc<AgentCore>, interactive: bool) -> Self {
        Self {
            core: Arc::clone(core),
            interactive,
            polls: false,
            opened: OnceLock::new(),
            waker: AtomicWaker::new(),
        }
    }

    /// The stream, if anything was said.
    pub(crate) fn opened(&self) -> Option<&Arc<Outbox>> {
        self.opened.get().and_then(Option::as_ref)
    }

    /// Ready as soon as anything was said.
    pub(crate) fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<&Arc<Outbox>> {
        self.waker.register(cx.waker());
        self.opened().map_or(Poll::Pending, Poll::Ready)
    }

    /// Opens the stream before anything was said.
    pub(crate) fn begin(&self) {
        self.opened.get_or_init(|| Some(self.core.call_outbox()));
    }

    /// The POST is gone before there was a stream: its agent knows none it could resume.
    pub(crate) fn abandon(&self) {
        if let Some(outbox) = self.opened.get_or_init(|| None) {
            outbox.abandon();
        }
    }
}

impl Outlet for CallStream {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        if matches!(event, LinkEvent::Request { .. }) && !self.interactive {
            return Err(OutletFull);
        }
        if let LinkEvent::Paused(wait) = event
            && !(self.polls && wait < self.core.common.times().orphan / 2)
        {
            return Ok(());
        }
        let is_first = self.opened.get().is_none();
        let Some(outbox) = self.opened.get_or_init(|| Some(self.core.call_outbox())) else {
            return Err(OutletFull);
        };
        let delivered = self.core.deliver(outbox, event);
        if is_first {
            self.waker.wake();
        }
        delivered
    }
}

/// A stream as its agent's revision knows it.
pub(crate) fn stream(core: &AgentCore, reader: Reader) -> Response {
    let times = core.common.times();
    let knows_priming = core.revision() == Some(Revision::V2025_11_25);
    let priming = reader.begins_after().filter(|_| knows_priming).map(|id| priming_event(id, times.retry));
    Response::stream(reader, priming, times.stream_ping)
}
