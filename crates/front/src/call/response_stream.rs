//! The response stream of one POST: messages of its calls before their answers. Opened by the first message, so a call
//! that is just answered pays one allocation for the option.

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
    /// Whether a server may ask this agent anything.
    interactive: bool,
    /// Whether the agent prefers a stream in any case and can resume it.
    polls: bool,
    /// `None` inside: the POST is gone, there will be no stream.
    opened: OnceLock<Option<Arc<Outbox>>>,
    waker: AtomicWaker,
}

impl CallStream {
    pub(crate) fn new(core: &Arc<AgentCore>, interactive: bool) -> Arc<Self> {
        Arc::new(Self::unopened(core, interactive))
    }

    /// A response stream that is open from the start.
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

    /// The stream, if it is open.
    pub(crate) fn opened(&self) -> Option<&Arc<Outbox>> {
        self.opened.get().and_then(Option::as_ref)
    }

    /// Ready as soon as the stream is open.
    pub(crate) fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<&Arc<Outbox>> {
        self.waker.register(cx.waker());
        self.opened().map_or(Poll::Pending, Poll::Ready)
    }

    /// Opens the stream before it has a message.
    pub(crate) fn begin(&self) {
        self.opened.get_or_init(|| Some(self.core.call_outbox()));
    }

    /// Notes that the POST is gone before it had a stream: its agent knows none it could resume.
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

/// The response with a stream, in the form the agent's revision knows.
pub(crate) fn stream(core: &AgentCore, reader: Reader) -> Response {
    let times = core.common.times();
    let knows_priming = core.revision() == Some(Revision::V2025_11_25);
    let priming = reader.begins_after().filter(|_| knows_priming).map(|id| priming_event(id, times.retry));
    Response::stream(reader, priming, times.stream_ping)
}
