//! Requests of the server that wait for the agent a session belongs to: asked once, answered once, and not waited for
//! longer than a person may take.

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

/// Server requests one agent may have open at a time on its own session.
const MAX_ASKED: usize = 64;

/// How long an agent may take: where a person has to fill in something, and elsewhere.
const PATIENCE_ELICITATION: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(120);

/// The number of the last request that was passed on: unique in the process, because an agent may hold several sessions.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// The requests that wait, by our number.
#[derive(Default)]
pub(super) struct Asked {
    open: HashMap<u64, Ask>,
}

struct Ask {
    /// The server's id.
    id: RpcId,
    /// The token the server wants progress under, as it came.
    token: Option<Bytes>,
    /// The call it came with.
    call: Option<u64>,
    /// The agent of that call.
    agent: Option<AgentKey>,
    until: Instant,
}

impl Session {
    /// Asks the agent the session belongs to, or whose call asks: on the stream of the call the request came with, else on the agent's
    /// own stream, else on that of any call it waits for (it has no other).
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
            // The driver's timer has to know.
            self.nudge.notify_one();
        } else {
            lock(&self.asked).open.remove(&number);
        }
        sent
    }

    /// An agent's answer to a request the server sent it under our number. False if it was not sent one of that
    /// number.
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

    /// Nobody is there any more to answer what was asked.
    pub(super) fn refuse_asks(&self) {
        let open = std::mem::take(&mut lock(&self.asked).open);
        for ask in open.into_values() {
            self.send_later(error_response(Some(&ask.id), -32601, "the request it belongs to is over", None));
        }
    }

    /// Whether a server request waits for the agent: its calls wait for a human.
    pub(crate) fn awaits_agent(&self, agent: AgentKey) -> bool {
        let asked = lock(&self.asked);
        asked.open.values().any(|ask| self.mode.is_private() || ask.agent == Some(agent))
    }

    /// The call is over with all that was asked for it.
    pub(super) fn forget_asks(&self, call: u64) {
        let gone: Vec<(u64, Ask)> =
            lock(&self.asked).open.extract_if(|_, ask| ask.call == Some(call)).collect();
        for (number, ask) in gone {
            self.withdraw(number, &ask, "the call it belongs to is over");
        }
    }

    /// A notification of the agent this session belongs to. Progress is for a request that waits for the agent, or
    /// for nobody.
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

    /// The server wants the answer to one of its requests no more.
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

    /// Gives up requests the agent did not answer in time: both sides are told.
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

    /// When the next of them is given up.
    pub(super) fn next_ask(&self) -> Option<Instant> {
        lock(&self.asked).open.values().map(|ask| ask.until).min()
    }

    fn withdraw(&self, number: u64, ask: &Ask, reason: &'static str) {
        if !self.push_to_asked(ask.call, ask.agent, &|| LinkEvent::Withdrawn { id: number, reason }) {
            self.reporter.on(Event::Dropped { kind: "notification" });
        }
    }

    /// On the stream of the call, else on the agent's own. Only who has the session alone is guessed to be meant.
    fn push_to_asked(
        &self,
        call: Option<u64>,
        agent: Option<AgentKey>,
        event: &dyn Fn() -> LinkEvent,
    ) -> bool {
        let on_own = |agent| self.merged.outlet_of(agent).is_some_and(|own| own.push(event()).is_ok());
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
