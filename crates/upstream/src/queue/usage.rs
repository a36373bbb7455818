//! How much of the room each principal and each of its agents takes.

use std::sync::Arc;

use mcpool_wire::{AgentKey, Identity};

use super::Guest;
use crate::sync::HashMap;

#[derive(Default)]
pub(super) struct Ledger {
    all: Load,
    principals: HashMap<Arc<Identity>, House>,
}

/// A principal, with its agents.
#[derive(Default)]
struct House {
    load: Load,
    agents: HashMap<AgentKey, Load>,
}

/// Calls that wait, and the bytes of their messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) calls: usize,
    pub(super) bytes: usize,
}

/// What the room has a limit of.
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

    pub(super) fn of_guest(self, guest: &Guest) -> usize {
        self.of(Load { calls: 1, bytes: guest.bytes })
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

impl Ledger {
    pub(super) fn all(&self) -> Load {
        self.all
    }

    pub(super) fn add(&mut self, guest: &Guest) {
        self.all.add(guest.bytes);
        let house = self.principals.entry(guest.principal.clone()).or_default();
        house.load.add(guest.bytes);
        house.agents.entry(guest.agent).or_default().add(guest.bytes);
    }

    pub(super) fn remove(&mut self, guest: &Guest) {
        let Some(house) = self.principals.get_mut(&guest.principal) else { return };
        let Some(load) = house.agents.get_mut(&guest.agent) else { return };
        self.all.take(guest.bytes);
        house.load.take(guest.bytes);
        load.take(guest.bytes);
        if load.calls == 0 {
            house.agents.remove(&guest.agent);
        }
        if house.load.calls == 0 {
            self.principals.remove(&guest.principal);
        }
    }

    /// Who has more of the room than the guest would have with one call more: the heaviest agent of the heaviest
    /// principal, or of the guest's own.
    pub(super) fn heavier_than(&self, guest: &Guest, measure: Measure) -> Option<(Arc<Identity>, AgentKey)> {
        let more = measure.of_guest(guest);
        let own = self.principals.get(&guest.principal);
        let (principal, house) = self.principals.iter().max_by_key(|(_, house)| measure.of(house.load))?;
        let with_it = own.map_or(0, |own| measure.of(own.load)) + more;
        if *principal != guest.principal && with_it < measure.of(house.load) {
            return Some((principal.clone(), house.heaviest(measure)?.0));
        }
        let (agent, most) = own?.heaviest(measure)?;
        let with_it = own?.agents.get(&guest.agent).map_or(0, |load| measure.of(*load)) + more;
        (agent != guest.agent && with_it < most).then(|| (guest.principal.clone(), agent))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all == Load::default() && self.principals.is_empty()
    }
}

impl House {
    fn heaviest(&self, measure: Measure) -> Option<(AgentKey, usize)> {
        let loads = self.agents.iter().map(|(agent, load)| (*agent, measure.of(*load)));
        loads.max_by_key(|(_, load)| *load)
    }
}
