//! What one call says before its answer: its own progress, and the log messages its request asked for.
//!
//! The stream is opened by the first thing that is said. Nothing else of the backend is this caller's business.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use mcpool_wire::{Envelope, LinkEvent, Method, Outlet, OutletFull};

use crate::{agent::AgentCore, outbox::Outbox};

/// How severe a log message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Level(usize);

/// The least severe first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl Level {
    pub(super) fn parse(name: &str) -> Option<Self> {
        LEVELS.iter().position(|level| *level == name).map(Self)
    }
}

pub(super) struct Voice {
    core: Arc<AgentCore>,
    /// The least severe log message that is wanted; nothing: none.
    level: Option<Level>,
    opened: OnceLock<Arc<Outbox>>,
    waker: AtomicWaker,
}

impl Voice {
    pub(super) fn new(core: &Arc<AgentCore>, level: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::clone(core),
            level: level.and_then(Level::parse),
            opened: OnceLock::new(),
            waker: AtomicWaker::new(),
        })
    }

    /// The stream, if anything was said.
    pub(super) fn opened(&self) -> Option<&Arc<Outbox>> {
        self.opened.get()
    }

    /// Ready as soon as anything was said.
    pub(super) fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<Arc<Outbox>> {
        self.waker.register(cx.waker());
        self.opened().map_or(Poll::Pending, |outbox| Poll::Ready(Arc::clone(outbox)))
    }

    fn say(&self, event: LinkEvent) -> Result<(), OutletFull> {
        let is_first = self.opened.get().is_none();
        let outbox = self.opened.get_or_init(|| self.core.call_outbox());
        let delivered = self.core.deliver(outbox, event);
        if is_first {
            self.waker.wake();
        }
        delivered
    }

    fn wants(&self, notification: &[u8]) -> bool {
        let Ok(envelope) = Envelope::parse(notification) else { return false };
        let level = envelope.params.level.as_deref().and_then(Level::parse);
        envelope.method == Some(Method::LogMessage)
            && self.level.zip(level).is_some_and(|(least, level)| level >= least)
    }
}

impl Outlet for Voice {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        match event {
            LinkEvent::Progress(_) => self.say(event),
            LinkEvent::Notification(ref bytes) if self.wants(bytes) => self.say(event),
            LinkEvent::Notification(_) | LinkEvent::Withdrawn { .. } | LinkEvent::Ended(_) => Ok(()),
            // Nobody declared that it could be asked.
            LinkEvent::Request { .. } => Err(OutletFull),
        }
    }
}
