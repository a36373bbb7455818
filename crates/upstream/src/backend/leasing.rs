//! How a call comes by a session of a backend: what it needs, a slot if there is one, else a place to wait.

use mcpool_wire::{Call, Method};

use super::Backend;
use crate::{
    clock,
    pool::{CallKind, Lease, NoLease, Seat},
    room::{RoomFull, Waiter},
    valve::{Passage, Traffic},
};

impl Backend {
    /// A slot on the agent's session, if there is one now.
    ///
    /// # Errors
    /// [`NoLease`] says where to wait, or that waiting is of no use.
    pub fn try_lease(&self, seat: &Seat, kind: CallKind) -> Result<Lease, NoLease> {
        let refused = |shut| match shut {
            Traffic::Drained => NoLease::Drained,
            Traffic::Flowing | Traffic::Resuming | Traffic::Paused => {
                NoLease::Wait(seat.lane(kind, &self.room))
            }
        };
        let passage = self.valve.admit().map_err(refused)?;
        let lease = seat.try_lease(kind)?;
        // Whoever shut it meanwhile counts the slots after that, and must not be told that none is taken.
        match self.valve.traffic() {
            shut @ (Traffic::Paused | Traffic::Drained) => Err(refused(shut)),
            Traffic::Flowing | Traffic::Resuming => {
                Ok(Lease { passage: passage.map(Passage::used), ..lease })
            }
        }
    }

    /// What a call needs of its session besides a slot.
    #[must_use]
    pub fn kind_of(&self, seat: &Seat, call: &Call) -> CallKind {
        let writes = self.modes.writes_in_turn() && call.method == Method::ToolsCall && !seat.is_safe(call);
        if writes { CallKind::Write } else { CallKind::Free }
    }

    /// Whether nobody waits for a session of this backend.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.room.is_empty()
    }

    /// A place in the waiting room.
    ///
    /// # Errors
    /// [`RoomFull`] at the limit.
    pub fn wait(&self, seat: &Seat, kind: CallKind) -> Result<Waiter, RoomFull> {
        self.room.enter(seat.lane(kind, &self.room), seat.caller.agent, clock::now())
    }
}
