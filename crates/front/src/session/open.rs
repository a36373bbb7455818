//! Opening a link for an agent: limited in time, and reported like the end of any call.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{CallError, CallTrace, ErrorKind, Link, Reply, RequestId};
use tokio::time::Instant;

use crate::{
    limits::refused::draining,
    message::Request,
    observe::Outcome,
    session::agent::AgentCore,
    shared::{Common, Ending},
};

/// Reports the end of one `initialize`.
pub(crate) struct OpenEnd {
    request_id: RequestId,
    trace: CallTrace,
}

/// The link, or an error at the deadline or at shutdown: a backend must not keep an agent waiting for ever.
pub(crate) fn bounded<L: Link>(open: Reply<Arc<L>>, common: &Common) -> Reply<Arc<L>> {
    let (limit, stopping) = (common.times().open, common.draining.clone());
    Box::pin(async move {
        let opened = tokio::select! {
            biased;
            opened = tokio::time::timeout(limit, open) => opened,
            () = stopping.cancelled() => return Err(draining()),
        };
        opened.unwrap_or_else(|_| {
            Err(CallError::not_sent(ErrorKind::Deadline, format!("no session became ready within {limit:?}")))
        })
    })
}

impl OpenEnd {
    pub(crate) fn new(core: &AgentCore) -> Self {
        Self { request_id: core.common.request_id(), trace: CallTrace::new(Instant::now().into_std()) }
    }

    pub(crate) fn ok(&self, core: &AgentCore, request: &Request) {
        self.trace.mark_answered(Instant::now().into_std());
        self.ending(core, request).report(&core.common, Outcome::Ok, None);
    }

    pub(crate) fn refused(&self, core: &AgentCore, request: &Request, error: &CallError) -> Bytes {
        self.ending(core, request).refused(&core.common, error);
        error.to_response(Some(&request.id), &self.request_id.to_string())
    }

    fn ending<'a>(&'a self, core: &'a AgentCore, request: &'a Request) -> Ending<'a> {
        Ending {
            agent: core.caller.agent,
            request_id: self.request_id,
            method: &request.method,
            target: &core.target.name,
            trace: &self.trace,
        }
    }
}
