//! Binding of an agent to a backend: its mode, its pool, and the wait for a first handshake or a session of its own.

use std::{sync::Arc, time::Duration};

use mcpool_wire::{CallError, CapabilityClass, ClientHello, Era, ErrorKind, Hello};
use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{Backend, keyed};
use crate::{
    backend::traffic::{TrafficState, Waited},
    error::{Cause, SendError},
    kinds::Mode,
    pool::{Binding, Counted, OpenRequest, Pool, sharing::SessionUse},
};

impl Backend {
    /// Binds an agent to this backend.
    ///
    /// # Errors
    /// [`CallError`] if the first handshake, or a session for an agent that needs its own, is not complete in time.
    ///
    /// # Cancel safety
    /// Dropping the future releases everything; a shared handshake continues for the others.
    pub async fn bind(self: &Arc<Self>, hello: &Hello) -> Result<Binding, CallError> {
        self.bind_within(hello, self.spec.times.first_open).await
    }

    /// Binds an agent to this backend, with this patience for its first handshake.
    ///
    /// # Errors
    /// As [`Backend::bind`].
    ///
    /// # Cancel safety
    /// As [`Backend::bind`].
    pub async fn bind_within(
        self: &Arc<Self>,
        hello: &Hello,
        patience: Duration,
    ) -> Result<Binding, CallError> {
        if self.traffic.state() == TrafficState::Drained {
            return Err(self.drained());
        }
        let session_use = match self.session_use(hello) {
            Some(session_use) => session_use,
            // The mode depends on the server, and there was no handshake yet.
            None => {
                if let Some(binding) = self.met(hello, patience).await? {
                    return Ok(binding);
                }
                self.session_use(hello).unwrap_or(SessionUse::Usual(Mode::Pinned))
            }
        };
        let mode = session_use.mode();
        let class = match self.declares(&hello.client, mode) {
            true => hello.client.class(),
            false => CapabilityClass::neutral(),
        };
        let pool = self.pool(self.key(&hello.caller, class, mode));
        if mode == Mode::Pinned {
            return self.bind_pinned(hello, pool, self.spec.times.queue).await;
        }
        self.greeted(&pool, patience).await?;
        let reset = self.spec.sharing.reset_on_release;
        Ok(match session_use {
            SessionUse::Fresh => Binding::exclusive(hello, pool, true),
            SessionUse::Usual(Mode::Exclusive) => Binding::exclusive(hello, pool, reset),
            SessionUse::Usual(_) => Binding::shared(hello, pool),
        })
    }

    /// Does the first handshake with an unknown server, with the key of the agent to be bound. Returns the binding if
    /// that is a session of the agent's own and the agent needs one.
    async fn met(self: &Arc<Self>, hello: &Hello, patience: Duration) -> Result<Option<Binding>, CallError> {
        let Hello { caller, client, .. } = hello;
        let has_handshake = client.revision.era() == Era::Legacy;
        if client.is_interactive() && has_handshake && self.has_keys() {
            let pool = self.pool(self.key(caller, client.class(), Mode::Pinned));
            let binding = self.bind_pinned(hello, pool, patience).await?;
            let fits = self.session_use(hello).is_none_or(|session_use| session_use.mode() == Mode::Pinned);
            return Ok(Some(binding).filter(|_| fits));
        }
        let first = match self.policy.decide(false).map(|decision| decision.mode) {
            // Sessions of one agent are opened on request only, and no agent requests one here. The session of the
            // first waiting call shows what the server is.
            Some(Mode::Pinned) => self.pool(self.key(caller, client.class(), Mode::Exclusive)),
            // The gateway's own credential serves as well, and its session will be needed.
            None if client.is_interactive() && !self.has_keys() => self.default_pool(),
            Some(_) | None => self.pool(self.key(caller, CapabilityClass::neutral(), Mode::Shared)),
        };
        self.greeted(&first, patience).await?;
        Ok(None)
    }

    fn session_use(&self, hello: &Hello) -> Option<SessionUse> {
        self.policy.session_use(&hello.client, hello.caller.affinity.is_some())
    }

    /// True if a new binding of this agent would have another mode.
    #[must_use]
    pub fn is_outdated(&self, binding: &Binding, hello: &Hello) -> bool {
        self.session_use(hello).is_some_and(|session_use| keyed(session_use.mode()) != binding.mode())
    }

    /// True if an agent without handshake would lose state that the server keeps per session. False before the first
    /// handshake.
    #[must_use]
    pub fn prefers_handshake(&self, client: &ClientHello, is_named: bool) -> bool {
        self.policy.session_use(client, is_named) == Some(SessionUse::Fresh)
    }

    /// True if the gateway declares the agent's capabilities to the backend: if no other agent could be asked instead.
    /// On a backend of the modern era a modern agent declares them itself.
    fn declares(&self, client: &ClientHello, mode: Mode) -> bool {
        match (self.policy.era(), client.revision.era()) {
            (Some(Era::Modern), Era::Modern) => false,
            (Some(Era::Modern), Era::Legacy) => mode.is_private() || mode == Mode::Stateless,
            (Some(Era::Legacy) | None, _) => mode.is_private(),
        }
    }

    /// Waits for the first handshake of a pool, for a bounded time.
    async fn greeted(&self, pool: &Arc<Pool>, patience: Duration) -> Result<(), CallError> {
        if pool.catalog.hello().is_some() {
            return Ok(());
        }
        let _greeting = Counted::new(pool, |pool| &pool.greeting);
        let refused = pool.plight.next_refusal();
        self.queue.demand.notify_one();
        let greeted = async {
            tokio::select! {
                _ = pool.catalog.wait_hello() => Ok(()),
                // A refusal of the pool's credential refuses this agent too.
                why = refused => Err(self.refused(&why)),
            }
        };
        match self.traffic.wait(patience, None, greeted).await {
            Ok(greeted) => greeted,
            Err(Waited::Drained) => Err(self.drained()),
            Err(Waited::TooLong) => Err(self.unavailable(pool, "answered its handshake", patience)),
        }
    }

    async fn bind_pinned(
        &self,
        hello: &Hello,
        pool: Arc<Pool>,
        patience: Duration,
    ) -> Result<Binding, CallError> {
        let _waits = self.applicants.enter();
        let (reply, opened) = oneshot::channel();
        let request = OpenRequest { pool: pool.clone(), owner: Arc::downgrade(&hello.outlet), reply };
        self.requests.try_send(request).map_err(|refused| {
            self.named(match refused {
                TrySendError::Full(_) => CallError::not_sent(
                    ErrorKind::Overloaded,
                    format!(
                        "{} agents wait for a session of their own already; raise backends.{}.max_sessions",
                        self.spec.limits.queue, self.spec.name
                    ),
                ),
                TrySendError::Closed(_) => removed(),
            })
        })?;
        self.queue.demand.notify_one();
        let (waited, patience) = self.wait_for_own(&pool, patience, opened).await;
        match waited {
            Ok(Ok(Ok(own))) => Ok(Binding::pinned(hello, pool, own.into_session())),
            Ok(Ok(Err(why))) => Err(self.refused(&why)),
            Ok(Err(_)) => Err(self.named(removed())),
            Err(Waited::Drained) => Err(self.drained()),
            Err(Waited::TooLong) if self.trouble_in(&pool).is_some() => {
                Err(self.unavailable(&pool, "given the agent a session", patience))
            }
            Err(Waited::TooLong) => {
                let (name, (taken, limit)) = (&self.spec.name, self.budget.usage());
                let message = format!(
                    "no session of backend {name:?} became free within {patience:?}: {taken} of {limit} are taken, and \
                     agents that have one of their own keep it; raise backends.{name}.max_sessions, or lower its \
                     pinned_idle"
                );
                Err(self.named(CallError::not_sent(ErrorKind::QueueTimeout, message)))
            }
        }
    }

    /// The error for an agent whose credential the server refused.
    fn refused(&self, why: &SendError) -> CallError {
        let kind = match why.cause {
            Cause::Credential(_) => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        self.named(CallError::not_sent(kind, format!("backend {:?}: {why}", self.spec.name)))
    }

    /// Waits for a session of the agent's own. Returns the result and the time allowed: a backend that never answered
    /// is not awaited as long as a busy one, and the two may only be told apart meanwhile.
    async fn wait_for_own<T>(
        &self,
        pool: &Pool,
        patience: Duration,
        mut opened: oneshot::Receiver<T>,
    ) -> (Result<Result<T, oneshot::error::RecvError>, Waited>, Duration) {
        let step = self.spec.times.first_open;
        let mut spent = Duration::ZERO;
        loop {
            let next = step.min(patience.saturating_sub(spent)).max(Duration::from_millis(1));
            let waited = self.traffic.wait(next, None, &mut opened).await;
            spent += next;
            let is_dead = pool.catalog.hello().is_none() && self.trouble_in(pool).is_some();
            if !matches!(waited, Err(Waited::TooLong)) || is_dead || spent >= patience {
                return (waited, spent);
            }
        }
    }

    fn unavailable(&self, pool: &Pool, what: &str, after: Duration) -> CallError {
        let why = self.trouble_in(pool).map_or_else(|| "no answer yet".to_owned(), |t| t.why);
        let message = format!("backend {:?} has not {what} within {after:?}: {why}", self.spec.name);
        self.named(CallError::not_sent(ErrorKind::Unavailable, message).retry_after(Duration::from_secs(1)))
    }
}

fn removed() -> CallError {
    CallError::not_sent(ErrorKind::Draining, "the backend is being removed")
}
