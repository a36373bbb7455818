//! How a call comes by a session of a backend: what it needs, a permit if there is one, else a place to wait.

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
    /// A permit on the agent's session, if there is one now; `only`: on this one, where the agent keeps to none.
    ///
    /// # Errors
    /// [`NoLease`] says where to wait, or that waiting is of no use.
    pub fn try_lease(&self, binding: &Binding, kind: CallKind, only: Option<u64>) -> Result<Lease, NoLease> {
        let refused = |shut| match shut {
            TrafficState::Drained => NoLease::Drained,
            TrafficState::Flowing | TrafficState::Resuming | TrafficState::Paused => {
                NoLease::Wait(binding.lane(kind, &self.queue))
            }
        };
        let resume_permit = self.traffic.admit().map_err(refused)?;
        let lease = binding.try_lease(kind, only)?;
        // Whoever shut it meanwhile counts the permits after that, and must not be told that none is taken.
        match self.traffic.state() {
            shut @ (TrafficState::Paused | TrafficState::Drained) => Err(refused(shut)),
            TrafficState::Flowing | TrafficState::Resuming => {
                Ok(Lease { resume_permit: resume_permit.map(ResumePermit::used), ..lease })
            }
        }
    }

    /// What a call needs of its session besides a permit.
    #[must_use]
    pub fn kind_of(&self, binding: &Binding, call: &Call) -> CallKind {
        let writes =
            self.policy.writes_in_turn() && call.method == Method::ToolsCall && !binding.is_safe(call);
        if writes { CallKind::Write } else { CallKind::Free }
    }

    /// Whether nobody waits for a session of this backend.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there are more permits for this call than callers who wait for anything: then it overtakes nobody. Where
    /// a binding keeps to a session only the few that wait for the same one matter, and its lane looks after them.
    #[must_use]
    pub fn has_permits_for_all(&self, binding: &Binding, kind: CallKind) -> bool {
        kind == CallKind::Free
            && binding.keeps_to_none()
            && self.traffic() == TrafficState::Flowing
            && binding.pool.free_permits() > self.queue.waiting()
    }

    /// A place in the queue for a call with a message of so many bytes.
    ///
    /// # Errors
    /// [`QueueFull`] at a limit.
    pub fn wait(&self, binding: &Binding, kind: CallKind, bytes: usize) -> Result<Waiter, QueueFull> {
        let entry = Entry { principal: binding.caller.identity.clone(), agent: binding.caller.agent, bytes };
        self.queue.enter(binding.lane(kind, &self.queue), entry, clock::now())
    }

    /// How long a call would wait that comes now, as fast as calls were served lately.
    #[must_use]
    pub fn wait_expected(&self) -> Duration {
        self.queue.turn_after(clock::now())
    }

    /// A place before all newcomers, for a call that was being served and must go again.
    #[must_use]
    pub fn wait_again(&self, binding: &Binding, kind: CallKind, bytes: usize) -> Waiter {
        let entry = Entry { principal: binding.caller.identity.clone(), agent: binding.caller.agent, bytes };
        self.queue.come_back(binding.lane(kind, &self.queue), entry, clock::now())
    }
}

impl Binding {
    /// Until when nothing is to be sent for this agent, because the backend asked for it.
    #[must_use]
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pool.paused_until().filter(|until| *until > now)
    }

    /// The backend does not know this session any more.
    pub fn session_lost(&self, epoch: u64) {
        self.pool.doubt_others(epoch);
    }

    /// Resolves when the server refuses what this agent brings (`forward_headers`) from now on, so that waiting for a
    /// session is of no use; never, where it is the gateway's credential that is refused.
    pub fn next_refusal(&self) -> impl Future<Output = SendError> + Send + use<> {
        let pool = self.pool.clone();
        let mut refusal = pool.plight.next_refusal().boxed();
        async move {
            loop {
                let error = refusal.await;
                // Who has a session waits for that.
                if pool.live() == 0 {
                    return SendError::clone(&error);
                }
                refusal = pool.plight.next_refusal().boxed();
            }
        }
    }

    /// The backend is at its limit: nothing is sent for the agents of this pool for so long, a minute at most.
    pub fn pause_for(&self, pause: Duration) {
        self.pool.pause_until(clock::now() + pause.min(LONGEST_PAUSE));
    }
}

/// Longest time a backend can ask to be left alone (SEMANTICS.md 7).
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
