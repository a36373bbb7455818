//! Messages to one agent: what its link delivers, answers, and what servers ask it.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use mcpool_wire::{IdValue, LinkEvent, Message, Outlet, OutletFull};

use super::{AgentCore, lock};
use crate::{
    observe::{FrontEvent, Transport},
    stream::{
        drop_policy::DropPolicy,
        event::one_line,
        outbox::{Outbox, Refused},
    },
};

/// Most unanswered server requests of one agent.
const MAX_SERVER_REQUESTS: usize = 64;

#[derive(Default)]
pub(super) struct ServerRequests {
    last: i64,
    open: Vec<(i64, u64)>,
}

impl AgentCore {
    /// Takes the link's number of the server request that the agent answers with this id.
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
                // An HTTP+SSE session has one stream: an agent that leaves it for a while loses everything else.
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
                    // Its calls still send their results.
                    Transport::Sse => self.outbox.finish(),
                    Transport::Http | Transport::Other => self.outbox.close(),
                }
                Ok(())
            }
        }
    }

    /// Queues a message that must arrive on the agent's own stream.
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

    /// Cancels a server request; a late answer of the agent is dropped.
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
