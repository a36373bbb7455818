//! The end of a registration while the gateway runs on: the configuration named another server under this name, or no
//! longer named it.

use std::sync::{Arc, atomic::Ordering};

use mcpool_wire::{LinkEvent, Method};

use super::{Backend, Old};
use crate::{
    kinds::{CloseReason, Mode},
    pool::{Binding, Pool},
    shared::list_changed,
};

/// How a registration ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Another one took its name: agents go there, but those that have a session of their own may keep it for a while.
    Replaced,
    /// Nothing took its name.
    Removed,
}

pub(super) const STAYS: u8 = 0;
const REPLACED: u8 = 1;
/// Replaced, and agents with a session of their own have had their time.
const OVERDUE: u8 = 2;
const REMOVED: u8 = 3;

impl Backend {
    /// Ends the registration: calls in flight finish, those that wait are sent back, and nothing is opened any more.
    pub fn leave(&self, why: Leaving) {
        let state = match why {
            Leaving::Replaced => REPLACED,
            Leaving::Removed => REMOVED,
        };
        // One that was replaced can still be removed, not the other way round.
        self.leaving.fetch_max(state, Ordering::SeqCst);
        self.reconsider();
    }

    /// Ends the sessions that agents have for themselves, each with its last call: they had their time.
    pub fn end_pinned(&self) {
        let _ = self.leaving.compare_exchange(REPLACED, OVERDUE, Ordering::SeqCst, Ordering::SeqCst);
        self.reconsider();
    }

    /// Whether an agent may go on with a session of its own although the registration ended.
    pub(crate) fn keeps_pinned(&self) -> bool {
        matches!(self.leaving.load(Ordering::SeqCst), STAYS | REPLACED)
    }

    /// Ends every session now, whatever is in flight on it.
    pub fn cut(&self) {
        for Old { session, .. } in self.all_sessions() {
            session.cut(CloseReason::Replaced);
        }
    }

    /// Whether and how its registration ends.
    #[must_use]
    pub fn leaving(&self) -> Option<Leaving> {
        match self.leaving.load(Ordering::SeqCst) {
            STAYS => None,
            REPLACED | OVERDUE => Some(Leaving::Replaced),
            _ => Some(Leaving::Removed),
        }
    }

    /// Resolves when the last session of a registration that ends is over.
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

    /// Whether a session that several agents use is there, or about to be.
    #[must_use]
    pub fn has_shared(&self) -> bool {
        self.pools().iter().any(|pool| pool.mode() != Mode::Pinned && holds(pool))
    }

    /// Whether a call that may change something runs on one of its sessions, where such calls run one at a time.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.all_sessions().any(|old| old.session.is_writing())
    }
}

fn holds(pool: &Arc<Pool>) -> bool {
    !pool.is_empty() || pool.opening.load(Ordering::Acquire) > 0
}

impl Binding {
    /// Takes over what the agent asked of another server under this name: its revision, its log level, and the
    /// resources it is subscribed to. With `anew` it is told that all lists may be others.
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
                // An agent that does not keep up asks for its lists when it comes to it.
                let _ = self.outlet.push(LinkEvent::Notification(list_changed(&kind)));
            }
        }
    }
}
