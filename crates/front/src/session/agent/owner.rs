//! Whose an agent session is: what its id is bound to, what it was opened with in the headers its backend is given, and
//! whether a session of the backend is its alone.

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
    /// Its agent with what its latest request came with.
    latest: ArcSwap<Caller>,
    /// Whether a request came with something else than it was opened with.
    moved: AtomicBool,
    /// What it was opened with.
    carried: Carried,
    /// The headers its id says came with it.
    opened_with: u32,
    /// Where a session of its backend is its alone: the values of its headers that was opened with.
    owned: Mutex<Option<Forwarded>>,
    /// Once it is known.
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
    /// What its id is bound to.
    pub(crate) fn binding(&self) -> Binding<'_> {
        Binding {
            transport: self.transport,
            identity: &self.caller.identity,
            target: &self.target,
            carried: &self.owner.carried,
        }
    }

    /// The headers that came with it when its id was given out.
    pub(crate) fn opened_with(&self) -> u32 {
        self.owner.opened_with
    }

    /// Whether a request that carries this may be one of this session. One that is served on a session of its own stays
    /// with the values that was opened with: with others it begins again.
    pub(crate) fn may_carry(&self, carried: &Carried) -> bool {
        carried.is_of_nothing()
            || (!carried.lacks(self.owner.opened_with)
                && lock(&self.owner.owned).as_ref().is_none_or(|values| carried.agrees_with(values)))
    }

    /// Its agent, as the one a request comes from that carries this.
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

    /// Whether a request came with other values than it was opened with: then nothing that was said with those is
    /// said again.
    pub(crate) fn has_moved(&self) -> bool {
        self.owner.moved.load(Ordering::Relaxed)
    }

    /// It is in the table, under this id.
    pub(crate) fn known_as(&self, id: AgentSessionId) {
        let _ = self.owner.id.set(id);
        if lock(&self.owner.owned).is_some() {
            self.revoke();
        }
    }

    /// A session of its backend is its alone, opened with these values: what it leaves there is lost with the session.
    pub(crate) fn becomes_own(&self, values: Forwarded) {
        *lock(&self.owner.owned) = Some(values);
        self.revoke();
    }

    /// From now on its id restores nothing.
    pub(crate) fn revoke(&self) {
        if let Some(id) = self.owner.id.get() {
            let revoked = self.common.revoke(*id, &self.binding());
            revoked.into_iter().for_each(|one| self.common.revocations.write(one));
        }
    }
}
