//! The owner of an agent session: what its id is bound to, the forwarded headers it was opened with, and whether it has
//! a backend session of its own.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use mcpool_wire::{Caller, Forwarded};

use super::{AgentCore, lock};
use crate::{
    forwarded_headers::Carried,
    session_id::{AgentSessionId, seal::Binding},
};

pub(super) struct Owner {
    /// The caller, with the headers of its latest request.
    latest: ArcSwap<Caller>,
    /// Whether a request came with other values than the session was opened with.
    moved: AtomicBool,
    /// The forwarded headers it was opened with.
    carried: Carried,
    /// The bits of the headers it was opened with, as its id has them.
    opened_with: u32,
    /// The header values its own backend session was opened with. `None` if it shares.
    owned: Mutex<Option<Forwarded>>,
    /// The id, once it is known.
    id: OnceLock<AgentSessionId>,
}

impl Owner {
    pub(super) fn new(caller: &Arc<Caller>, carried: Carried, opened_with: u32) -> Self {
        Self {
            latest: ArcSwap::new(Arc::clone(caller)),
            moved: AtomicBool::new(false),
            carried,
            opened_with,
            owned: Mutex::default(),
            id: OnceLock::new(),
        }
    }
}

impl AgentCore {
    /// The binding of its id.
    pub(crate) fn binding(&self) -> Binding<'_> {
        Binding {
            transport: self.transport,
            identity: &self.caller.identity,
            target: &self.target,
            carried: &self.owner.carried,
        }
    }

    /// The bits of the headers present when its id was sealed.
    pub(crate) fn opened_with(&self) -> u32 {
        self.owner.opened_with
    }

    /// Whether a request with these headers may belong to this session. A session with its own backend session keeps
    /// the values that was opened with; with others its agent must begin again.
    pub(crate) fn may_carry(&self, carried: &Carried) -> bool {
        carried.is_of_nothing()
            || (!carried.lacks(self.owner.opened_with)
                && lock(&self.owner.owned).as_ref().is_none_or(|values| carried.agrees_with(values)))
    }

    /// The caller, with the headers of this request.
    pub(crate) fn as_sent(&self, carried: &Carried) -> Arc<Caller> {
        let latest = self.owner.latest.load_full();
        if latest.forwarded == carried.values {
            return latest;
        }
        let caller = Arc::new(Caller { forwarded: Arc::clone(&carried.values), ..Caller::clone(&latest) });
        self.owner.moved.store(true, Ordering::Relaxed);
        self.owner.latest.store(Arc::clone(&caller));
        caller
    }

    /// Whether a request came with other values than the session was opened with.
    pub(crate) fn has_moved(&self) -> bool {
        self.owner.moved.load(Ordering::Relaxed)
    }

    /// Notes that it is in the table under this id.
    pub(crate) fn known_as(&self, id: AgentSessionId) {
        let _ = self.owner.id.set(id);
        if lock(&self.owner.owned).is_some() {
            self.revoke();
        }
    }

    /// Notes that it has its own backend session, opened with these values: its state is lost with the session, so its
    /// id must not be restored.
    pub(crate) fn becomes_own(&self, values: Forwarded) {
        *lock(&self.owner.owned) = Some(values);
        self.revoke();
    }

    /// Revokes its id: it can no longer be restored.
    pub(crate) fn revoke(&self) {
        if let Some(id) = self.owner.id.get() {
            let revoked = self.common.revoke(*id, &self.binding());
            revoked.into_iter().for_each(|one| self.common.revocations.write(one));
        }
    }
}
