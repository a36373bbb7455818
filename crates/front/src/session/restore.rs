//! Restoring agent sessions from their sealed ids: after a restart, or after an idle session was evicted.
//!
//! Only neutral agents that share are restored: an agent with its own backend session lost its state there and must
//! knowingly begin again. However many requests bring one id at a time, one link is opened for it.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::{FutureExt as _, Shared, WeakShared};
use mcpool_wire::{
    Backends, CallError, CallTrace, ClientHello, Hello, Link, Method, Outlet, RpcId, Target, error_response,
};
use tokio::time::Instant;

use crate::{
    http::response::{Response, refused_here},
    limits::refused::NoPlace,
    observe::{AgentEnd, Cause, FrontEvent, Restore, Transport},
    session::{
        Front, RequestHead,
        agent::{Agent, AgentCore, Side},
        open,
    },
    session_id::{
        AgentSessionId,
        revoked::{Revocation, RevocationStatus},
        seal::{Binding, Claims, fingerprint_of},
    },
    shared::Ending,
};

/// Abandoned restores are removed when this many are in the table.
const MANY: usize = 1_024;

/// The reason there is no agent session.
#[derive(Clone)]
pub(crate) enum Missing {
    /// The id is not valid; it does not matter why.
    Unknown,
    /// The gateway has no place for it.
    NoPlace(NoPlace),
    /// The backend gave it no link.
    Unopened(Arc<CallError>),
}

type Restored<L> = Result<Arc<Agent<L>>, Missing>;
type Restoring<L> = Pin<Box<dyn Future<Output = Restored<L>> + Send>>;

/// Restores in progress, one per id. Held by their requests only: one that no request waits for ends.
pub(crate) struct SingleFlight<L>(Mutex<HashMap<AgentSessionId, WeakShared<Restoring<L>>>>);

impl<L> Default for SingleFlight<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Link> SingleFlight<L> {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<AgentSessionId, WeakShared<Restoring<L>>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Backends> Front<B> {
    /// Finds or restores the Streamable HTTP session of this id.
    pub(crate) async fn agent(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        session: &str,
        target: &Target,
    ) -> Restored<B::Link> {
        let Some(id) = AgentSessionId::parse(session) else { return Err(Missing::Unknown) };
        let (transport, carried) = (Transport::Http, self.carried(target, head.headers));
        let binding = Binding { transport, identity: head.identity, target, carried: &carried };
        if let Some(agent) = self.agents.find(id, &binding) {
            return Ok(agent);
        }
        let claims = self.verify_restorable(id, &binding).map_err(|()| Missing::Unknown)?;
        // Boxed: few requests take this path.
        Box::pin(self.restored(head, id, claims, target)).await
    }

    /// Opens a sealed id that is not in the registry. `Err` if it is invalid, expired, deleted or not restorable; those
    /// cases are counted.
    pub(crate) fn verify_restorable(&self, id: AgentSessionId, binding: &Binding<'_>) -> Result<Claims, ()> {
        let claims = self.common.in_force().config.sessions.keys.open(id, binding).ok_or(())?;
        if binding.carried.lacks(claims.carried) {
            return Err(());
        }
        match self.obstacle(id, &claims) {
            None => Ok(claims),
            Some(outcome) => {
                self.count_restore(outcome);
                Err(())
            }
        }
    }

    fn obstacle(&self, id: AgentSessionId, claims: &Claims) -> Option<Restore> {
        if !claims.is_restorable() {
            return Some(Restore::Own);
        }
        if !self.common.expiry.is_good(claims.issued) {
            return Some(Restore::Expired);
        }
        match self
            .common
            .revocations
            .status(Revocation { issued: claims.issued, fingerprint: fingerprint_of(id) })
        {
            RevocationStatus::Valid => None,
            RevocationStatus::Deleted => Some(Restore::Deleted),
            RevocationStatus::Forgotten => Some(Restore::Forgotten),
        }
    }

    async fn restored(
        self: &Arc<Self>,
        head: &RequestHead<'_>,
        id: AgentSessionId,
        claims: Claims,
        target: &Target,
    ) -> Restored<B::Link> {
        if self.common.is_draining() {
            return Err(Missing::NoPlace(NoPlace::Draining));
        }
        let flight = self.agents.restores.with(|restores| {
            if let Some(flight) = restores.get(&id).and_then(WeakShared::upgrade) {
                return Ok(flight);
            }
            if restores.len() >= MANY {
                restores.retain(|_, flight| flight.upgrade().is_some());
            }
            let (permit, opened_with) = (self.try_acquire_session(head.peer)?, Some(claims.carried));
            let core = self.new_agent(head, target.clone(), Transport::Http, permit, opened_with);
            let restoring: Restoring<B::Link> = Box::pin(Arc::clone(self).restore(id, claims, core));
            let flight: Shared<_> = restoring.shared();
            restores.extend(flight.downgrade().map(|weak| (id, weak)));
            Ok(flight)
        });
        match flight {
            Ok(flight) => flight.await,
            Err(why) => {
                self.count_restore(Restore::Full);
                Err(Missing::NoPlace(why))
            }
        }
    }

    async fn restore(
        self: Arc<Self>,
        id: AgentSessionId,
        claims: Claims,
        core: Arc<AgentCore>,
    ) -> Restored<B::Link> {
        // Another restore may have finished meanwhile.
        if let Some(agent) = self.agents.find(id, &core.binding()) {
            return Ok(agent);
        }
        let result = self.open_and_insert(id, claims, Arc::clone(&core)).await;
        self.count_restore(match &result {
            Ok(_) => Restore::Restored,
            Err(Missing::Unknown) => Restore::Own,
            Err(Missing::NoPlace(_)) => Restore::Full,
            Err(Missing::Unopened(_)) => Restore::Failed,
        });
        // Removed after the insertion: a request that finds no restore in progress finds the session.
        self.agents.restores.with(|restores| restores.remove(&id));
        result
    }

    async fn open_and_insert(
        self: &Arc<Self>,
        id: AgentSessionId,
        claims: Claims,
        core: Arc<AgentCore>,
    ) -> Restored<B::Link> {
        let mut client = ClientHello::neutral();
        if let Some(revision) = claims.revision {
            client.revision = revision;
            core.agreed_on(revision);
        }
        let outlet: Arc<dyn Outlet> = Arc::<AgentCore>::clone(&core);
        let hello = Hello { caller: Arc::clone(&core.caller), target: core.target.clone(), client, outlet };
        let opened = open::bounded(self.backends.open(hello), &self.common).await;
        let link = opened.map_err(|error| Missing::Unopened(Arc::new(error)))?;
        if link.is_own() {
            // The backend changed: from now on the agent has its own session, which it could lose.
            return Err(Missing::Unknown);
        }
        core.profile.tied(link.as_ref());
        let (agent, _) =
            self.agents.insert(Agent { id, core, side: Side::Http { link, interactive: false } });
        // It may have been deleted meanwhile: a DELETE revokes first and looks in the table then.
        if self.obstacle(id, &claims).is_some() {
            self.agents.remove(id, &agent.core, AgentEnd::Deleted);
            return Err(Missing::Unknown);
        }
        Ok(agent)
    }

    pub(crate) fn count_restore(&self, outcome: Restore) {
        self.common.emit(&FrontEvent::Restore { outcome });
    }

    /// The response to a request without an agent session; if the backend gave no link, like that of any failed call.
    pub(crate) fn missing(&self, missing: &Missing, id: Option<&RpcId>) -> Response {
        match missing {
            Missing::Unknown => Response::unknown_session(id),
            Missing::NoPlace(why) => Response::no_place(id, &self.common.request_id().to_string(), *why),
            Missing::Unopened(error) => {
                let body = error.to_response(id, &self.common.request_id().to_string());
                Response::unavailable(body)
            }
        }
    }

    /// The response to a URL that names no backend; `id` is echoed if there is a message.
    pub(crate) fn unknown_backend(&self, head: &RequestHead<'_>, id: Option<&RpcId>, why: &str) -> Response {
        let known: Vec<String> =
            self.backends.servers(head.identity).into_iter().map(|entry| entry.name).collect();
        let mut data = refused_here();
        data["backends"] = known.into();
        Response::not_found(error_response(id, -32600, why, Some(&data)))
    }

    /// The response to a call of a session that could not be restored because of its backend.
    pub(crate) fn unopened(
        &self,
        error: &CallError,
        id: &RpcId,
        method: &Method,
        target: &Target,
    ) -> Response {
        let (request_id, trace) = (self.common.request_id(), CallTrace::new(Instant::now().into_std()));
        let agent = mcpool_wire::AgentKey(0);
        Ending { agent, request_id, method, target: &target.name, trace: &trace }
            .refused(&self.common, error);
        let body = error.to_response(Some(id), &request_id.to_string());
        Response::ok(Cause::Gateway, body)
    }
}
