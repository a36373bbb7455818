//! One link that callers without a session share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use mcpool_wire::{Link, LinkEvent, Method, Outlet, OutletFull, read_leniently};
use serde_json::json;

use crate::{
    limits::gauges::Gauges,
    observe::{AgentEnd, FrontEvent, Transport},
    session::agent::AgentCore,
    shared::Common,
    stateless::{
        call_output::LogLevel,
        discover::{greeting, server_info},
        own::own,
        parked::Parked,
    },
};

/// One link that callers share.
pub(crate) struct SharedLink<L> {
    pub(in crate::stateless) core: Arc<AgentCore>,
    pub(in crate::stateless) link: Arc<L>,
    /// The server's name and version as JSON text.
    pub(in crate::stateless) server_info: Arc<str>,
    /// The least severe log level its callers asked for so far. `None` if the server does not log.
    level: Option<Mutex<Option<LogLevel>>>,
    pub(super) null_outlet: Arc<NullOutlet>,
    /// The table of parked calls.
    pub(in crate::stateless) parked: Arc<Parked>,
}

/// The outlet for messages outside of calls: a shared link has no agent to send them to.
#[derive(Default)]
pub(super) struct NullOutlet {
    pub(super) ended: AtomicBool,
}

impl Outlet for NullOutlet {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        match event {
            LinkEvent::Ended(_) => {
                self.ended.store(true, Ordering::Relaxed);
                Ok(())
            }
            LinkEvent::Progress(_)
            | LinkEvent::Notification(_)
            | LinkEvent::Withdrawn { .. }
            | LinkEvent::Paused(_)
            | LinkEvent::Owned(_) => Ok(()),
            // A server must not ask outside of a call.
            LinkEvent::Request { .. } => Err(OutletFull),
        }
    }
}

impl<L> SharedLink<L> {
    fn common(&self) -> &Common {
        &self.core.common
    }
}

impl<L: Link> SharedLink<L> {
    pub(super) fn new(
        core: Arc<AgentCore>,
        link: Arc<L>,
        null_outlet: Arc<NullOutlet>,
        parked: Arc<Parked>,
    ) -> Self {
        let greeting = greeting(link.as_ref());
        let server_info = server_info(&greeting).into();
        let has_log = greeting
            .get("capabilities")
            .is_some_and(|all| read_leniently(all.get()).get("logging").is_some());
        let level = has_log.then(Mutex::default);
        Gauges::up(&core.common.gauges.modern_agents, 1);
        core.common.emit(&FrontEvent::AgentOpened {
            agent: core.caller.agent,
            transport: Transport::Http,
            backend: &core.target.name,
            peer: core.profile.peer,
            client: None,
        });
        Self { core, link, server_info, level, null_outlet, parked }
    }

    /// Sets the log level of the server to what this caller wants. The level belongs to the link, so it is the least
    /// severe of all its callers, and each caller gets only what it asked for. If the server refuses, its level stays.
    pub(in crate::stateless) async fn hear(&self, wanted: LogLevel) {
        let Some(level) = &self.level else { return };
        {
            let mut level = level.lock().unwrap_or_else(PoisonError::into_inner);
            if level.is_some_and(|level| level <= wanted) {
                return;
            }
            *level = Some(wanted);
        }
        let params = json!({ "level": wanted.as_str() });
        if let Some(call) = own(&self.core, Method::LoggingSetLevel, &params, None) {
            let _ = self.link.call(call).await;
        }
    }
}

impl<L> Drop for SharedLink<L> {
    fn drop(&mut self) {
        self.core.leave();
        Gauges::down(&self.common().gauges.modern_agents, 1);
        let ended = self.null_outlet.ended.load(Ordering::Relaxed);
        self.common().emit(&FrontEvent::AgentClosed {
            agent: self.core.caller.agent,
            transport: Transport::Http,
            reason: if ended { AgentEnd::LinkEnded } else { AgentEnd::Idle },
        });
    }
}
