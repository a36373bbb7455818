//! End of a registration: the configuration has another server under its name, or none.

use std::sync::{Arc, atomic::Ordering};

use mcpool_wire::{LinkEvent, Method};

use super::{Backend, Old};
use crate::{
    kinds::{CloseReason, Mode},
    pool::{Binding, Pool},
    shared::list_changed,
};

/// The way a registration ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Replaced by another registration of the same name: agents move to it, but may keep a session of their own for a
    /// while.
    Replaced,
    /// Removed without replacement.
    Removed,
}

pub(super) const STAYS: u8 = 0;
const REPLACED: u8 = 1;
/// Replaced, and the time for sessions of agents' own is over.
const OVERDUE: u8 = 2;
const REMOVED: u8 = 3;

impl Backend {
    /// Ends the registration: calls in flight finish, waiting calls are sent back, and no session is opened.
    pub fn leave(&self, why: Leaving) {
        let state = match why {
            Leaving::Replaced => REPLACED,
            Leaving::Removed => REMOVED,
        };
        // A replaced registration can still be removed, but not the reverse.
        self.leaving.fetch_max(state, Ordering::SeqCst);
        self.reconsider();
    }

    /// Ends the sessions of agents' own, each after its last call: their time is over.
    pub fn end_pinned(&self) {
        let _ = self.leaving.compare_exchange(REPLACED, OVERDUE, Ordering::SeqCst, Ordering::SeqCst);
        self.reconsider();
    }

    /// True if an agent may keep its own session after the end of the registration.
    pub(crate) fn keeps_pinned(&self) -> bool {
        matches!(self.leaving.load(Ordering::SeqCst), STAYS | REPLACED)
    }

    /// Ends every session now, with any calls in flight.
    pub fn cut(&self) {
        for Old { session, .. } in self.all_sessions() {
            session.cut(CloseReason::Replaced);
        }
    }

    /// The way its registration ends, if it does.
    #[must_use]
    pub fn leaving(&self) -> Option<Leaving> {
        match self.leaving.load(Ordering::SeqCst) {
            STAYS => None,
            REPLACED | OVERDUE => Some(Leaving::Replaced),
            _ => Some(Leaving::Removed),
        }
    }

    /// Resolves when the last session of an ending registration is closed.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn vacated(&self) {
        loop {
            let mut told = std::pin::pin!(self.left.notified());
            told.as_mut().enable();
            if !self.pools().iter().any(holds) {
                return;
            }
            told.await;
        }
    }

    /// True if a shared session exists or is being opened.
    #[must_use]
    pub fn has_shared(&self) -> bool {
        self.pools().iter().any(|pool| pool.mode() != Mode::Pinned && holds(pool))
    }

    /// True if a write runs on one of its sessions, if writes run one at a time.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.all_sessions().any(|old| old.session.is_writing())
    }
}

fn holds(pool: &Arc<Pool>) -> bool {
    !pool.is_empty() || pool.opening.load(Ordering::Acquire) > 0
}

impl Binding {
    /// Takes over the agent's requests to another server of this name: its revision, its log level and its
    /// subscriptions. With `anew` the agent also gets a change of every list.
    pub fn follow(&self, old: &Self, anew: bool) {
        *super::lock(&self.revision) = *super::lock(&old.revision);
        self.pool.shared.adopt(self.number, self.caller.agent, old.pool.shared.wishes_of(old.number));
        let Some(hello) = old.pool.catalog.hello().filter(|_| anew) else { return };
        for (key, kind) in [
            ("tools", Method::ToolsListChanged),
            ("prompts", Method::PromptsListChanged),
            ("resources", Method::ResourcesListChanged),
        ] {
            if hello.capabilities[key]["listChanged"] == true {
                // A slow agent requests its lists later.
                let _ = self.outlet.push(LinkEvent::Notification(list_changed(&kind)));
            }
        }
    }
}
