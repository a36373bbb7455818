//! The table of open `subscriptions/listen` streams, to end them at shutdown or when memory is short.

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

/// One open stream in the table; removed on drop.
pub(super) struct ListenerEntry {
    list: Arc<Listeners>,
    number: u64,
    common: Arc<Common>,
}

impl Listeners {
    /// Adds a stream. `None` if there are as many as agent sessions are allowed.
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

    /// Ends all streams, each with its answer.
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

    // Copied, so that no work is done under the lock.
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
