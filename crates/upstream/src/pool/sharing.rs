//! The sharing mode of a backend and its reason (SEMANTICS.md 4): the first rule that applies decides.
//!
//! Sharing is on probation until the first sign that the server keeps state per session; from then on new agents get
//! sessions of their own, and present agents keep their mode. No clock, no IO.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mcpool_wire::{ClientHello, Era, Method, ServerHello};

use crate::{
    config::{BackendSpec, Endpoint, ModeChoice, Profile, SerialWrites, StateChoice},
    kinds::{Evidence, Mode, ModeReason, TransportKind},
    observe::{Event, Reporter},
};

/// A list change within this time of a tool call on the same session counts as caused by it.
const CAUSED_WITHIN: Duration = Duration::from_secs(2);
/// Time for the other sessions to announce the same change, before it counts as one session's own.
const SIBLINGS_WITHIN: Duration = Duration::from_millis(500);
/// Most announced changes remembered; the oldest is dropped.
const MAX_CHANGES: usize = 256;

/// A mode and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The mode.
    pub mode: Mode,
    /// The rule that chose it.
    pub reason: ModeReason,
}

/// The use of sessions by one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionUse {
    /// As the mode says.
    Usual(Mode),
    /// A fresh session for each call: an agent without handshake has no session to find its state in, and must not find
    /// that of others.
    Fresh,
}

impl SessionUse {
    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Usual(mode) => mode,
            Self::Fresh => Mode::Exclusive,
        }
    }
}

/// The reason sharing was withdrawn.
#[derive(Clone, Debug)]
pub struct Demotion {
    /// The evidence.
    pub evidence: Evidence,
    /// Details, for a human.
    pub why: String,
    /// The time.
    pub at: Instant,
}

/// Facts about a server from its first handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerFacts {
    /// In lower case.
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) has_session: bool,
    pub(crate) kind: TransportKind,
    pub(crate) era: Era,
    /// True if it has a tool that the operator pinned.
    pub(crate) has_pinned_tool: bool,
}

impl ServerFacts {
    pub(crate) fn of(
        hello: &ServerHello,
        has_session: bool,
        kind: TransportKind,
        has_pinned_tool: bool,
    ) -> Self {
        let text = |key| hello.server_info.get(key).and_then(|value| value.as_str()).unwrap_or_default();
        Self {
            name: text("name").to_lowercase(),
            version: text("version").to_owned(),
            has_session,
            kind,
            era: hello.revision.era(),
            has_pinned_tool,
        }
    }
}

/// Decides the sharing mode of one backend from its configuration and from what its server is seen to be.
pub(crate) struct SharingPolicy {
    spec: Arc<BackendSpec>,
    reporter: Reporter,
    inner: Mutex<Inner>,
    /// Read by every call, so apart from the lock.
    writes_in_turn: AtomicBool,
}

#[derive(Default)]
struct Inner {
    facts: Option<ServerFacts>,
    demoted: Option<Demotion>,
    changes: VecDeque<Change>,
}

/// A list change that one session announced.
struct Change {
    pool: u64,
    epoch: u64,
    list: &'static str,
    at: Instant,
    /// True if a tool call of the session may have caused it.
    suspicious: bool,
}

impl SharingPolicy {
    pub(crate) fn new(spec: Arc<BackendSpec>, reporter: Reporter) -> Self {
        let writes_in_turn = AtomicBool::new(writes_in_turn(&spec, None));
        Self { spec, reporter, inner: Mutex::default(), writes_in_turn }
    }

    /// True if writes run one at a time on a shared session.
    pub(crate) fn writes_in_turn(&self) -> bool {
        self.writes_in_turn.load(Ordering::Relaxed)
    }

    /// The mode of the next agent. `None` while it depends on a server not reached yet.
    pub(crate) fn decide(&self, interactive: bool) -> Option<Decision> {
        let inner = self.lock();
        decide(&self.spec, inner.facts.as_ref(), inner.demoted.is_some(), interactive)
    }

    /// The use of sessions by this agent. `None` while it depends on a server not reached yet.
    pub(crate) fn session_use(&self, client: &ClientHello, is_named: bool) -> Option<SessionUse> {
        let Decision { mode, .. } = self.decide(client.is_interactive())?;
        let is_nobodys = client.revision.era() == Era::Modern && !is_named;
        if mode != Mode::Pinned || !is_nobodys {
            return Some(SessionUse::Usual(mode));
        }
        Some(match self.era()? {
            Era::Legacy => SessionUse::Fresh,
            Era::Modern => SessionUse::Usual(mode),
        })
    }

    /// The era of the server, once reached.
    pub(crate) fn era(&self) -> Option<Era> {
        self.lock().facts.as_ref().map(|facts| facts.era)
    }

    /// Stores the facts of a handshake.
    pub(crate) fn learn(&self, facts: ServerFacts) {
        let mut inner = self.lock();
        let of = |inner: &Inner| decide(&self.spec, inner.facts.as_ref(), inner.demoted.is_some(), false);
        let before = inner.facts.is_some().then(|| of(&inner)).flatten();
        self.writes_in_turn
            .store(writes_in_turn(&self.spec, profile_of(&self.spec, &facts)), Ordering::Relaxed);
        inner.facts = Some(facts);
        let now = of(&inner);
        drop(inner);
        if let Some(Decision { mode, reason }) = now.filter(|_| now != before) {
            self.reporter.on(Event::ModeChosen { mode, reason });
        }
    }

    /// The matching profile.
    pub(crate) fn profile(&self) -> Option<&Profile> {
        profile_of(&self.spec, self.lock().facts.as_ref()?)
    }

    /// True if neutral agents of such a program get sessions of their own.
    pub(crate) fn pins(&self, facts: &ServerFacts) -> bool {
        let decision = decide(&self.spec, Some(facts), self.lock().demoted.is_some(), false);
        facts.kind == TransportKind::Stdio && decision.is_some_and(is_of_program)
    }

    /// True if a spare process is held for the next agent that gets its own: a package runner is slow to start.
    pub(crate) fn keeps_spare(&self) -> bool {
        let is_process = self.lock().facts.as_ref().is_some_and(|facts| facts.kind == TransportKind::Stdio);
        is_process && self.decide(false).is_some_and(is_of_program)
    }

    pub(crate) fn demotion(&self) -> Option<Demotion> {
        self.lock().demoted.clone()
    }

    /// True if agents share on probation; only then evidence matters.
    pub(crate) fn is_on_probation(&self) -> bool {
        self.decide(false).is_some_and(|decision| decision.reason == ModeReason::Probation)
    }

    /// Withdraws sharing for new agents, if it was on probation.
    pub(crate) fn demote(&self, evidence: Evidence, why: &str, now: Instant) {
        let mut inner = self.lock();
        let decision = decide(&self.spec, inner.facts.as_ref(), inner.demoted.is_some(), false);
        if decision.is_none_or(|decision| decision.reason != ModeReason::Probation) {
            return;
        }
        inner.demoted = Some(Demotion { evidence, why: why.to_owned(), at: now });
        drop(inner);
        self.reporter.on(Event::Demoted { evidence, why });
    }

    /// Notes a list change announced by a session. `called`: the time of its last tool call.
    pub(crate) fn list_changed(
        &self,
        pool: u64,
        epoch: u64,
        list: &Method,
        called: Option<Instant>,
        now: Instant,
    ) {
        let suspicious = called.is_some_and(|at| now.saturating_duration_since(at) <= CAUSED_WITHIN);
        let mut inner = self.lock();
        if inner.changes.len() == MAX_CHANGES {
            inner.changes.pop_front();
        }
        inner.changes.push_back(Change { pool, epoch, list: list.label(), at: now, suspicious });
    }

    /// True if a list of this pool changed since.
    pub(crate) fn changed_since(&self, pool: u64, since: Instant) -> bool {
        self.lock().changes.iter().any(|change| change.pool == pool && change.at >= since)
    }

    /// Finds a change that only one session announced, right after a call on it, and forgets changes that are too old.
    pub(crate) fn judge_changes(&self, now: Instant) -> Option<String> {
        let mut inner = self.lock();
        inner.changes.retain(|change| now.saturating_duration_since(change.at) < 5 * CAUSED_WITHIN);
        let own = |change: &&Change| {
            change.suspicious
                && now.saturating_duration_since(change.at) >= SIBLINGS_WITHIN
                && !inner.changes.iter().any(|other| is_same_change(change, other))
        };
        let found = inner.changes.iter().find(own)?;
        let why = format!(
            "{} of session {} changed right after a tool call on it, and of no other session",
            found.list, found.epoch
        );
        inner.changes.clear();
        Some(why)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if another session of the pool announced the same change.
fn is_same_change(one: &Change, other: &Change) -> bool {
    let apart = one.at.max(other.at).saturating_duration_since(one.at.min(other.at));
    one.pool == other.pool && one.epoch != other.epoch && one.list == other.list && apart <= CAUSED_WITHIN
}

/// Applies the rules in their order.
fn decide(
    spec: &BackendSpec,
    facts: Option<&ServerFacts>,
    demoted: bool,
    interactive: bool,
) -> Option<Decision> {
    let decision = |mode, reason| Some(Decision { mode, reason });
    if !spec.sharing.pinned_tools.is_empty() && facts?.has_pinned_tool {
        return decision(Mode::Pinned, ModeReason::Tool);
    }
    match spec.mode {
        ModeChoice::Shared => return decision(Mode::Shared, ModeReason::Configured),
        ModeChoice::Exclusive => return decision(Mode::Exclusive, ModeReason::Configured),
        ModeChoice::Pinned => return decision(Mode::Pinned, ModeReason::Configured),
        ModeChoice::Auto => {}
    }
    let facts = facts?;
    if !facts.has_session {
        return decision(Mode::Stateless, ModeReason::NoSession);
    }
    if let Some(profile) = profile_of(spec, facts) {
        return decision(profile.mode, ModeReason::Profile);
    }
    let stateless = spec.sharing.state == StateChoice::None;
    match (interactive, stateless) {
        (false, true) => decision(Mode::Shared, ModeReason::StateNone),
        (true, true) if facts.kind == TransportKind::Http => decision(Mode::Exclusive, ModeReason::StateNone),
        (true, _) => decision(Mode::Pinned, ModeReason::Interactive),
        (false, false) if demoted => decision(Mode::Pinned, ModeReason::Demoted),
        (false, false) if facts.kind == TransportKind::Stdio => decision(Mode::Pinned, ModeReason::Program),
        (false, false) => decision(Mode::Shared, ModeReason::Probation),
    }
}

/// True if the kind of the server is the reason for sessions of agents' own.
fn is_of_program(decision: Decision) -> bool {
    decision.mode == Mode::Pinned && matches!(decision.reason, ModeReason::Program | ModeReason::Profile)
}

/// The operator's setting, else the profile's, else that of the transport.
fn writes_in_turn(spec: &BackendSpec, profile: Option<&Profile>) -> bool {
    match spec.limits.serial_writes {
        SerialWrites::On => true,
        SerialWrites::Off => false,
        SerialWrites::Auto => {
            let is_process = matches!(spec.endpoint, Endpoint::Stdio(_));
            profile.and_then(|profile| profile.serialize_writes).unwrap_or(is_process)
        }
    }
}

fn profile_of<'a>(spec: &'a BackendSpec, facts: &ServerFacts) -> Option<&'a Profile> {
    spec.sharing.profiles.iter().find(|profile| profile.fits(&facts.name, &facts.version))
}

#[cfg(test)]
mod tests;
