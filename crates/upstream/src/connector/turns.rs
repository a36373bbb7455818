//! The turns of the pools: which one opens a session next, when, and with whose place.
//!
//! Pools without a session come before those that need one more. Pools whose credential was refused lately come last,
//! with fewer handshakes at a time: an agent that keeps sending a bad token delays no other.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mcpool_wire::CapabilityClass;

use super::{Connector, Wanted};
use crate::{
    backend::Backend,
    clock,
    kinds::{CloseReason, Mode, OpenReason},
    pool::{Own, Pool, budget::Place},
    session::{Session, state::Standing},
};

/// A handshake longer than this does not count against `max_creating` if only its credential may make it hang; but
/// there are never more than `WITH_HANGING` times as many.
const HANGS: Duration = Duration::from_millis(500);
const WITH_HANGING: usize = 8;

/// A session used within this time is not evicted. Shorter than an agent waits for the first session of its pool.
const IN_USE: Duration = Duration::from_secs(2);

impl Connector {
    /// The next session to open: for waiting agents, in turn; else a warm one, or a probe for the circuit.
    pub(super) fn wanted(&mut self, now: Instant) -> Option<Wanted> {
        if let Some(wanted) = self.in_turn(now) {
            return Some(wanted);
        }
        // A backend must recover without demand too.
        let probes = self.backend.gate.wants_probe(now);
        let wanted =
            if self.backend.has_keys() { self.probe_of_agents(probes) } else { self.unasked(probes) }?;
        self.is_due(&wanted.pool, wanted.reason, now).then_some(wanted)
    }

    /// True if one more handshake is allowed now.
    pub(super) fn may_begin(&mut self) -> bool {
        let (limit, all) = (self.backend.spec.limits.max_creating, self.openings.len());
        if all < limit || !self.backend.has_keys() || all >= limit * WITH_HANGING {
            return all < limit;
        }
        let (now, mut hanging, mut next) = (clock::now(), 0, None);
        for pool in self.backend.pools() {
            let opening = pool.opening.load(Ordering::Acquire);
            match pool.plight.begun().filter(|_| opening > 0) {
                Some(at) if now.saturating_duration_since(at) >= HANGS => hanging += opening,
                Some(at) => next = Some(next.map_or(at, |before: Instant| before.min(at))),
                None => {}
            }
        }
        next.into_iter().for_each(|at| self.try_at(at + HANGS));
        all < limit + hanging
    }

    /// Moves the time of the next try forward.
    pub(super) fn try_at(&mut self, at: Instant) {
        self.next_try = Some(self.next_try.map_or(at, |before| before.min(at)));
    }

    /// The end of the pause for this pool and reason.
    pub(super) fn paused_until(&self, pool: &Pool, reason: OpenReason) -> Option<Instant> {
        let pause = if self.backend.has_keys() { pool.plight.pause() } else { self.pause };
        let after_failure =
            pause.and_then(|pause| pause.until(reason, self.backend.gate.wants_probe(clock::now())));
        after_failure.max(pool.early_ends.until())
    }

    /// True if the pause of the pool is over; else notes its end for the next try.
    fn is_due(&mut self, pool: &Pool, reason: OpenReason, now: Instant) -> bool {
        let at = self.paused_until(pool, reason).filter(|at| *at > now);
        at.into_iter().for_each(|at| self.try_at(at));
        at.is_none()
    }

    fn in_turn(&mut self, now: Instant) -> Option<Wanted> {
        let own: HashSet<u64> = self.waiting.iter().map(|request| request.pool.number).collect();
        let pools = self.backend.pools();
        let may_fail = self.may_fail(&pools);
        let mut first = None;
        for pool in pools {
            let reason = match self.is_in_demand(&pool) {
                true => OpenReason::Demand,
                false if own.contains(&pool.number) => OpenReason::Pinned,
                false => continue,
            };
            let is_troubled = pool.plight.is_troubled();
            if !self.is_due(&pool, reason, now) || (is_troubled && !may_fail) {
                continue;
            }
            let has_session = pool.live() + pool.opening.load(Ordering::Acquire) > 0;
            let rank = (is_troubled, has_session, pool.number <= self.last, pool.number);
            if first.as_ref().is_none_or(|(before, _)| rank < *before) {
                first = Some((rank, Wanted { pool, reason, request: None }));
            }
        }
        first.map(|(_, wanted)| wanted)
    }

    /// True if one more handshake is allowed for a credential refused lately.
    fn may_fail(&self, pools: &[Arc<Pool>]) -> bool {
        let troubled = pools.iter().filter(|pool| pool.plight.is_troubled());
        let opening: usize = troubled.map(|pool| pool.opening.load(Ordering::Acquire)).sum();
        opening < self.backend.spec.limits.max_creating.saturating_sub(1).max(1)
    }

    /// Without demand: keeps the default pool warm, or probes with it.
    fn unasked(&self, probes: bool) -> Option<Wanted> {
        let limits = &self.backend.spec.limits;
        let warm = self.backend.default_pool();
        let there = self.there(&warm) + warm.opening.load(Ordering::Acquire);
        let is_cold = there < limits.min_idle.min(self.backend.sessions_of(&warm));
        let is_cold = match warm.mode() {
            Mode::Pinned => warm.opening.load(Ordering::Acquire) == 0 && self.wants_spare(&warm),
            Mode::Shared | Mode::Stateless | Mode::Exclusive => is_cold,
        };
        let reason = match is_cold {
            true => OpenReason::Warm,
            false if probes => OpenReason::Probe,
            false => return None,
        };
        Some(Wanted { pool: warm, reason, request: None })
    }

    /// True if a spare process is to be held for the next agent of this pool.
    pub(super) fn wants_spare(&self, pool: &Pool) -> bool {
        pool.mode() == Mode::Pinned
            && self.backend.spec.limits.min_idle > 0
            && self.backend.policy.keeps_spare()
            && spare_of(pool).is_none()
    }

    /// True if a process without declared capabilities is to be started for the next interactive agent: while one is
    /// bound, and within the budget.
    pub(super) fn wants_standby(&self) -> bool {
        let backend = &self.backend;
        let is_own = |pool: &Arc<Pool>| pool.mode() == Mode::Pinned && pool.live() > 0;
        let (taken, places) = backend.budget.usage();
        backend.spec.limits.min_idle > 0
            && backend.policy.keeps_spare()
            && backend.leaving().is_none()
            && !backend.traffic().is_shut()
            && taken < places
            && backend.pools().iter().any(|pool| pool.key.class != CapabilityClass::neutral() && is_own(pool))
    }

    /// Gives spare sessions to agents that wait for a session of their own.
    pub(super) fn hand_out_spares(&mut self) {
        self.waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .filter_map(|request| {
                let spare = spare_of(&request.pool).filter(|spare| spare.give_to(request.owner.clone()));
                let Some(spare) = spare else { return Some(request) };
                // An agent that left does not take it, and it is closed.
                drop(request.reply.send(Ok(Own::new(spare))));
                None
            })
            .collect();
    }

    /// Probes with the credentials of present agents, in turn, because the gateway has none.
    fn probe_of_agents(&self, probes: bool) -> Option<Wanted> {
        let there = self.backend.pools().into_iter().filter(|pool| probes && pool.shared.agents() > 0);
        let turn = |pool: &Arc<Pool>| (pool.plight.is_troubled(), pool.number <= self.last, pool.number);
        let pool = there.min_by_key(turn)?;
        Some(Wanted { pool, reason: OpenReason::Probe, request: None })
    }

    /// Takes a place of the budget. If none is free, a session of another key is evicted, one at a time.
    pub(super) async fn find_place(&mut self, wanted: &Wanted) -> Option<Place> {
        if let Some(place) = self.backend.budget.take().await {
            return Some(place);
        }
        let leaving = self.evicted.upgrade().is_some_and(|session| session.holds_place());
        // A warm session evicts no other.
        if leaving || wanted.reason == OpenReason::Warm {
            return None;
        }
        match dispensable(&self.backend, &wanted.pool) {
            Some(Dispensable::Now(session)) => {
                session.drain(CloseReason::Evicted);
                self.evicted = Arc::downgrade(&session);
            }
            Some(Dispensable::In(time)) => self.try_at(clock::now() + time),
            None => {}
        }
        None
    }
}

/// A session that can be evicted.
enum Dispensable {
    Now(Arc<Session>),
    /// A session that can be evicted after this time.
    In(Duration),
}

/// The session of another key with the longest idle time, unless used just now. A pool without a session gets one of a
/// pool with several.
fn dispensable(backend: &Backend, pool: &Pool) -> Option<Dispensable> {
    let mut others = backend.pools().into_iter().filter(|other| other.number != pool.number);
    if let Some(session) = others.find_map(|other| spare_of(&other)) {
        return Some(Dispensable::Now(session));
    }
    let has_none = pool.live() == 0;
    let others = backend.pools().into_iter().filter(|other| other.number != pool.number);
    let others = others.filter(|other| other.mode() != Mode::Pinned);
    let sessions: Vec<_> = others
        .flat_map(|other| {
            let (lane, live) = (other.shared.event_lane(), other.live());
            other.sessions().into_iter().map(move |session| (lane == Some(session.epoch), live, session))
        })
        .filter(|(_, _, session)| session.standing() == Standing::Ready)
        .collect();
    let idle = sessions.iter().filter(|(_, _, session)| session.in_flight() == 0);
    // The event session comes last: its agents would miss changes.
    let longest = idle.clone().max_by_key(|(is_lane, _, session)| (!is_lane, session.idle_for()));
    if let Some((_, _, session)) = longest.filter(|(_, _, session)| session.idle_for() >= IN_USE) {
        return Some(Dispensable::Now(session.clone()));
    }
    let spare = sessions.iter().filter(|(is_lane, live, _)| has_none && !is_lane && *live > 1);
    let spare = spare.max_by_key(|(_, live, session)| (session.in_flight() == 0, *live, session.idle_for()));
    if let Some((_, _, session)) = spare {
        return Some(Dispensable::Now(session.clone()));
    }
    if let Some(session) = abandoned(backend) {
        return Some(Dispensable::Now(session));
    }
    let soonest = idle.map(|(_, _, session)| IN_USE.saturating_sub(session.idle_for())).min();
    soonest.map(Dispensable::In)
}

/// The spare session of this pool.
fn spare_of(pool: &Pool) -> Option<Arc<Session>> {
    let waits = |session: &Arc<Session>| session.is_spare() && session.standing() == Standing::Ready;
    pool.sessions().into_iter().find(waits)
}

/// The session of one agent's own with the longest idle time, if that exceeds `pinned_idle`; its agent must initialise
/// again.
fn abandoned(backend: &Backend) -> Option<Arc<Session>> {
    let pinned = backend.pools().into_iter().filter(|pool| pool.mode() == Mode::Pinned);
    pinned
        .flat_map(|pool| pool.sessions())
        .filter(|session| session.standing() == Standing::Ready && session.pending() == 0)
        .map(|session| (session.idle_for(), session))
        .filter(|(idle, _)| *idle >= backend.spec.times.pinned_idle)
        .max_by_key(|(idle, _)| *idle)
        .map(|(_, session)| session)
}
