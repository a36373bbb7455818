//! The streams of `subscriptions/listen` that are open: found when all of them are to end, or when memory is short.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::listen::Listener;
use crate::{limits::gauges::Gauges, session::agent::AgentCore, shared::Common, stream::outbox::Outbox};

#[derive(Default)]
pub(crate) struct Listeners(Mutex<State>);

#[derive(Default)]
struct State {
    last: u64,
    open: HashMap<u64, Arc<Listener>>,
}

/// An open stream; dropping it takes it off the list.
pub(super) struct ListenerEntry {
    list: Arc<Listeners>,
    number: u64,
    common: Arc<Common>,
}

impl Listeners {
    /// Lists a stream, unless there are as many as there may be agent sessions.
    pub(super) fn enter(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        common: &Arc<Common>,
    ) -> Option<ListenerEntry> {
        let mut state = self.lock();
        if state.open.len() >= common.limits().agent_sessions {
            drop(state);
            common.refused("agent_sessions");
            return None;
        }
        state.last += 1;
        let number = state.last;
        state.open.insert(number, Arc::clone(listener));
        Gauges::up(&common.gauges.modern_agents, 1);
        Some(ListenerEntry { list: Arc::clone(self), number, common: Arc::clone(common) })
    }

    /// Ends all of them, each with a word.
    pub(crate) fn end_all(&self) {
        for listener in self.all() {
            listener.end();
        }
    }

    pub(crate) fn cores(&self) -> Vec<Arc<AgentCore>> {
        self.all().iter().map(|listener| listener.core()).collect()
    }

    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.all().iter().map(|listener| listener.outbox()).collect()
    }

    // Copied out, so that nothing is done under the lock.
    fn all(&self) -> Vec<Arc<Listener>> {
        self.lock().open.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ListenerEntry {
    fn drop(&mut self) {
        let gone = self.list.lock().open.remove(&self.number);
        Gauges::down(&self.common.gauges.modern_agents, 1);
        drop(gone);
    }
}
