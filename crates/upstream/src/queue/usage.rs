//! The usage of the queue by principal and agent.

use std::sync::Arc;

use mcpool_wire::{AgentKey, Identity};

use super::Entry;
use crate::sync::HashMap;

#[derive(Default)]
pub(super) struct Usage {
    all: Load,
    principals: HashMap<Arc<Identity>, PrincipalUsage>,
}

/// The usage of one principal and its agents.
#[derive(Default)]
struct PrincipalUsage {
    load: Load,
    agents: HashMap<AgentKey, Load>,
}

/// Calls that wait, and the bytes of their messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) calls: usize,
    pub(super) bytes: usize,
}

/// The measures that the queue limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Calls,
    Bytes,
}

impl Measure {
    pub(super) fn of(self, load: Load) -> usize {
        match self {
            Self::Calls => load.calls,
            Self::Bytes => load.bytes,
        }
    }

    pub(super) fn of_entry(self, entry: &Entry) -> usize {
        self.of(Load { calls: 1, bytes: entry.bytes })
    }
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.calls += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.calls -= 1;
        self.bytes -= bytes;
    }
}

impl Usage {
    pub(super) fn all(&self) -> Load {
        self.all
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        self.all.add(entry.bytes);
        let principal_usage = self.principals.entry(entry.principal.clone()).or_default();
        principal_usage.load.add(entry.bytes);
        principal_usage.agents.entry(entry.agent).or_default().add(entry.bytes);
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        let Some(principal_usage) = self.principals.get_mut(&entry.principal) else { return };
        let Some(load) = principal_usage.agents.get_mut(&entry.agent) else { return };
        self.all.take(entry.bytes);
        principal_usage.load.take(entry.bytes);
        load.take(entry.bytes);
        if load.calls == 0 {
            principal_usage.agents.remove(&entry.agent);
        }
        if principal_usage.load.calls == 0 {
            self.principals.remove(&entry.principal);
        }
    }

    /// The agent to displace for this entry: the heaviest of the heaviest principal, or of the entry's own, if it would
    /// still hold more than the entry's agent.
    pub(super) fn heavier_than(&self, entry: &Entry, measure: Measure) -> Option<(Arc<Identity>, AgentKey)> {
        let more = measure.of_entry(entry);
        let own = self.principals.get(&entry.principal);
        let (principal, principal_usage) =
            self.principals.iter().max_by_key(|(_, principal_usage)| measure.of(principal_usage.load))?;
        let with_it = own.map_or(0, |own| measure.of(own.load)) + more;
        if *principal != entry.principal && with_it < measure.of(principal_usage.load) {
            return Some((principal.clone(), principal_usage.heaviest(measure)?.0));
        }
        let (agent, most) = own?.heaviest(measure)?;
        let with_it = own?.agents.get(&entry.agent).map_or(0, |load| measure.of(*load)) + more;
        (agent != entry.agent && with_it < most).then(|| (entry.principal.clone(), agent))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all == Load::default() && self.principals.is_empty()
    }
}

impl PrincipalUsage {
    fn heaviest(&self, measure: Measure) -> Option<(AgentKey, usize)> {
        let loads = self.agents.iter().map(|(agent, load)| (*agent, measure.of(*load)));
        loads.max_by_key(|(_, load)| *load)
    }
}
