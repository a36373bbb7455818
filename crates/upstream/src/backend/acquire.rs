//! Sessions for calls: what a call needs, its permit if one is free, and its place in the queue if not.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use mcpool_wire::{Call, Method};

use super::Backend;
use crate::{
    backend::traffic::{ResumePermit, TrafficState},
    clock,
    error::SendError,
    pool::{Binding, Lease, NoLease},
    queue::{Entry, QueueFull, Waiter},
    session::permit::CallKind,
};

impl Backend {
    /// Takes a permit on the agent's session, if one is free. `only`: on this session, if the agent is bound to none.
    ///
    /// # Errors
    /// [`NoLease`] with the lane to wait in, or the reason not to wait.
    pub fn try_lease(&self, binding: &Binding, kind: CallKind, only: Option<u64>) -> Result<Lease, NoLease> {
        let refused = |shut| match shut {
            TrafficState::Drained => NoLease::Drained,
            TrafficState::Flowing | TrafficState::Resuming | TrafficState::Paused => {
                NoLease::Wait(binding.lane(kind, &self.queue))
            }
        };
        let resume_permit = self.traffic.admit().map_err(refused)?;
        let lease = binding.try_lease(kind, only)?;
        // A pause counts the permits after it set the state, and must not report none taken.
        match self.traffic.state() {
            shut @ (TrafficState::Paused | TrafficState::Drained) => Err(refused(shut)),
            TrafficState::Flowing | TrafficState::Resuming => {
                Ok(Lease { resume_permit: resume_permit.map(ResumePermit::used), ..lease })
            }
        }
    }

    /// The need of a call besides a permit.
    #[must_use]
    pub fn kind_of(&self, binding: &Binding, call: &Call) -> CallKind {
        let writes =
            self.policy.writes_in_turn() && call.method == Method::ToolsCall && !binding.is_safe(call);
        if writes { CallKind::Write } else { CallKind::Free }
    }

    /// True if no call waits for a session of this backend.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty()
    }

    /// True if there are more free permits for this call than waiting calls, so that it overtakes none. A binding to
    /// one session is excluded: only the calls waiting for that session matter, and its lane orders them.
    #[must_use]
    pub fn has_permits_for_all(&self, binding: &Binding, kind: CallKind) -> bool {
        kind == CallKind::Free
            && binding.keeps_to_none()
            && self.traffic() == TrafficState::Flowing
            && binding.pool.free_permits() > self.queue.waiting()
    }

    /// Adds a call with a message of this size to the queue.
    ///
    /// # Errors
    /// [`QueueFull`] at a limit.
    pub fn wait(&self, binding: &Binding, kind: CallKind, bytes: usize) -> Result<Waiter, QueueFull> {
        let entry = Entry { principal: binding.caller.identity.clone(), agent: binding.caller.agent, bytes };
        self.queue.enter(binding.lane(kind, &self.queue), entry, clock::now())
    }

    /// The expected wait of a new call, from the drain rate.
    #[must_use]
    pub fn wait_expected(&self) -> Duration {
        self.queue.turn_after(clock::now())
    }

    /// Adds a call that was being served and must be sent again, before all new calls.
    #[must_use]
    pub fn wait_again(&self, binding: &Binding, kind: CallKind, bytes: usize) -> Waiter {
        let entry = Entry { principal: binding.caller.identity.clone(), agent: binding.caller.agent, bytes };
        self.queue.come_back(binding.lane(kind, &self.queue), entry, clock::now())
    }
}

impl Binding {
    /// The end of the pause that the backend asked for, for this agent.
    #[must_use]
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pool.paused_until().filter(|until| *until > now)
    }

    /// Reports that the backend has forgotten this session.
    pub fn session_lost(&self, epoch: u64) {
        self.pool.doubt_others(epoch);
    }

    /// Resolves when the server refuses the agent's own credential (`forward_headers`) from now on, so that waiting is
    /// useless. Never resolves if the refused credential is the gateway's.
    pub fn next_refusal(&self) -> impl Future<Output = SendError> + Send + use<> {
        let pool = self.pool.clone();
        let mut refusal = pool.plight.next_refusal().boxed();
        async move {
            loop {
                let error = refusal.await;
                // An agent with a session continues on it.
                if pool.live() == 0 {
                    return SendError::clone(&error);
                }
                refusal = pool.plight.next_refusal().boxed();
            }
        }
    }

    /// Pauses sends for the agents of this pool, at most a minute: the backend is at its limit.
    pub fn pause_for(&self, pause: Duration) {
        self.pool.pause_until(clock::now() + pause.min(LONGEST_PAUSE));
    }
}

/// Longest pause that a backend can ask for (SEMANTICS.md 7).
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
