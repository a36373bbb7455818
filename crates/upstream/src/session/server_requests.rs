//! Server requests that wait for the session's agent: sent once, answered once, with a timeout for people.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpool_wire::{
    AgentKey, Envelope, ErrorKind, IdValue, LinkEvent, Message, Method, RpcId, error_response,
};

use super::{Session, lock, route::Origin};
use crate::{clock, observe::Event};

/// Maximum number of open server requests per agent on its own session.
const MAX_ASKED: usize = 64;

/// Timeouts: for elicitation, which people answer, and for other requests.
const PATIENCE_ELICITATION: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(120);

/// Number of the last forwarded request: unique in the process, because an agent may hold several sessions.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Open requests by their number.
#[derive(Default)]
pub(super) struct Asked {
    open: HashMap<u64, Ask>,
}

struct Ask {
    /// The server's id.
    id: RpcId,
    /// The server's progress token, as received.
    token: Option<Bytes>,
    /// The call on whose stream it came.
    call: Option<u64>,
    /// That call's agent.
    agent: Option<AgentKey>,
    until: Instant,
}

impl Session {
    /// Sends a server request to the owner, or the agent of the call: on the stream of the call, else the agent's own
    /// stream, else the stream of any waiting call of an agent without its own.
    pub(super) fn ask_owner(
        &self,
        message: &Message,
        id: &RpcId,
        method: Option<&Method>,
        origin: &Origin<'_>,
    ) -> bool {
        let patience =
            if method == Some(&Method::ElicitationCreate) { PATIENCE_ELICITATION } else { PATIENCE };
        let call = match origin {
            Origin::Exchange { call, .. } => Some(*call),
            Origin::Stream => None,
        };
        let agent = call.and_then(|call| self.pending.agent_of(call));
        let number = {
            let mut asked = lock(&self.asked);
            if asked.open.len() >= MAX_ASKED {
                return false;
            }
            let number = ASKED.fetch_add(1, Ordering::Relaxed) + 1;
            let until = clock::now() + patience;
            asked.open.insert(number, Ask { id: id.clone(), token: message.token(), call, agent, until });
            number
        };
        let event = || LinkEvent::Request { id: number, message: message.clone() };
        let sent = self.push_to_asked(call, agent, &event);
        if sent {
            // The driver must update its timer.
            self.nudge.notify_one();
        } else {
            lock(&self.asked).open.remove(&number);
        }
        sent
    }

    /// Forwards an agent's response to the server request of this number. False if there is none.
    pub(crate) fn respond(&self, agent: AgentKey, number: u64, response: &Message) -> bool {
        let ask = {
            let mut asked = lock(&self.asked);
            let is_its = |ask: &Ask| self.mode.is_private() || ask.agent == Some(agent);
            if !asked.open.get(&number).is_some_and(is_its) {
                return false;
            }
            asked.open.remove(&number)
        };
        let Some(ask) = ask else { return false };
        self.send_later(response.with_id(ask.id.raw()));
        true
    }

    /// Rejects all open server requests, because their agent is gone.
    pub(super) fn refuse_asks(&self) {
        let open = std::mem::take(&mut lock(&self.asked).open);
        for ask in open.into_values() {
            self.send_later(error_response(Some(&ask.id), -32601, "the request it belongs to is over", None));
        }
    }

    /// True if a server request waits for the agent, so its calls wait for a person.
    pub(crate) fn awaits_agent(&self, agent: AgentKey) -> bool {
        let asked = lock(&self.asked);
        asked.open.values().any(|ask| self.mode.is_private() || ask.agent == Some(agent))
    }

    /// Drops the server requests of a finished call.
    pub(super) fn forget_asks(&self, call: u64) {
        let gone: Vec<(u64, Ask)> =
            lock(&self.asked).open.extract_if(|_, ask| ask.call == Some(call)).collect();
        for (number, ask) in gone {
            self.withdraw(number, &ask, "the call it belongs to is over");
        }
    }

    /// Forwards a notification of the owner. Progress must belong to a request that waits for the agent.
    pub(crate) fn notify(&self, notification: Bytes) {
        if let Ok(envelope) = Envelope::parse(&notification)
            && envelope.method == Some(Method::Progress)
        {
            let token = envelope.params.progress_token.map(|raw| raw.get().as_bytes());
            let asked = lock(&self.asked);
            let is_known = token.is_some() && asked.open.values().any(|ask| ask.token.as_deref() == token);
            drop(asked);
            if !is_known {
                return self.reporter.on(Event::Dropped { kind: "progress" });
            }
        }
        self.send_later(notification);
    }

    /// Handles the server's cancellation of one of its requests.
    pub(super) fn withdrawn_by_server(&self, id: Option<&IdValue>) -> bool {
        let found = {
            let mut asked = lock(&self.asked);
            let number = asked.open.iter().find(|(_, ask)| Some(ask.id.value()) == id).map(|(n, _)| *n);
            number.and_then(|number| Some((number, asked.open.remove(&number)?)))
        };
        let Some((number, ask)) = found else { return false };
        self.withdraw(number, &ask, "the server withdrew its request");
        true
    }

    /// Times out unanswered requests; notifies both sides.
    pub(super) fn give_up_asks(&self, now: Instant) {
        let late: Vec<(u64, Ask)> = {
            let mut asked = lock(&self.asked);
            let late: Vec<u64> =
                asked.open.iter().filter(|(_, ask)| ask.until <= now).map(|(n, _)| *n).collect();
            late.into_iter().filter_map(|number| Some((number, asked.open.remove(&number)?))).collect()
        };
        for (number, ask) in late {
            let code = ErrorKind::Deadline.code();
            self.send_later(error_response(Some(&ask.id), code, "the agent did not answer in time", None));
            self.withdraw(number, &ask, "not answered in time");
        }
    }

    /// The next timeout.
    pub(super) fn next_ask(&self) -> Option<Instant> {
        lock(&self.asked).open.values().map(|ask| ask.until).min()
    }

    fn withdraw(&self, number: u64, ask: &Ask, reason: &'static str) {
        if !self.push_to_asked(ask.call, ask.agent, &|| LinkEvent::Withdrawn { id: number, reason }) {
            self.reporter.on(Event::Dropped { kind: "notification" });
        }
    }

    /// Pushes to the call's stream, else to the agent's own. Without a call, only the agent of a private session is
    /// addressed.
    fn push_to_asked(
        &self,
        call: Option<u64>,
        agent: Option<AgentKey>,
        event: &dyn Fn() -> LinkEvent,
    ) -> bool {
        let on_own = |agent| self.shared.outlet_of(agent).is_some_and(|own| own.push(event()).is_ok());
        call.is_some_and(|call| self.pending.push_to(call, event()))
            || match self.mode.is_private() {
                true => {
                    self.owner().is_some_and(|owner| owner.push(event()).is_ok())
                        || self.pending.push_to_any(event)
                }
                false => agent.is_some_and(on_own),
            }
    }
}
