//! The census, for operators: which agents are served and which calls run. Counted on the way, put together on request.
//!
//! Session ids are secrets and never shown; an agent is named by its number, as in the log.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcpool_wire::{Backends, CallTrace, Link, Method, Phase, RequestId};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    observe::{ClientName, Outcome, Transport},
    session::{
        Front,
        agent::{AgentCore, CancelFlag},
    },
    stream::outbox::Presence,
};

/// A query of the census.
#[derive(Clone, Debug, Default)]
pub struct CensusQuery {
    /// Only agents or calls of this backend.
    pub backend: Option<String>,
    /// Only agents with a higher number: the next page.
    pub after: u64,
    /// The most entries of an answer.
    pub limit: usize,
}

/// Answers queries of the census.
pub trait Census: Send + Sync {
    /// The agents, by number, and their total count.
    fn agents(&self, query: &CensusQuery) -> Value;

    /// Calls in flight, the longest first, and their total count.
    fn calls(&self, query: &CensusQuery) -> Value;
}

/// Counts and facts about one agent.
pub(crate) struct Profile {
    pub(crate) peer: IpAddr,
    began: Instant,
    client: OnceLock<ClientName>,
    /// The sharing mode of its backend session.
    mode: OnceLock<&'static str>,
    calls: AtomicU64,
    failed: AtomicU64,
    waited_ms: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// Facts about one call in flight.
pub(crate) struct CallNote {
    pub(crate) request_id: RequestId,
    pub(crate) method: Method,
    /// The tool, prompt or resource.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) trace: Arc<CallTrace>,
}

impl Profile {
    pub(crate) fn new(peer: IpAddr) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            peer,
            began: Instant::now(),
            client: OnceLock::new(),
            mode: OnceLock::new(),
            calls: zero(),
            failed: zero(),
            waited_ms: zero(),
            received: zero(),
            sent: zero(),
        }
    }

    /// Notes name and version of the client.
    pub(crate) fn introduced(&self, client_info: &Value) {
        let word = |key| short(client_info.get(key).and_then(Value::as_str).unwrap_or_default());
        let client = ClientName { name: word("name"), version: word("version") };
        if !client.name.is_empty() {
            let _ = self.client.set(client);
        }
    }

    pub(crate) fn client(&self) -> Option<&ClientName> {
        self.client.get()
    }

    /// Notes the link to the backend.
    pub(crate) fn tied<L: Link>(&self, link: &L) {
        let _ = self.mode.set(link.sharing());
    }

    /// Counts a call that began.
    pub(crate) fn calls(&self, bytes: usize) {
        add(&self.calls, 1);
        add(&self.received, bytes);
    }

    /// Counts a call that ended.
    pub(crate) fn ended(&self, outcome: Outcome, trace: &CallTrace) {
        if matches!(outcome, Outcome::Rejected | Outcome::Timeout | Outcome::Lost) {
            add(&self.failed, 1);
        }
        let waited = trace.waited().unwrap_or_default().as_millis();
        add(&self.waited_ms, usize::try_from(waited).unwrap_or(usize::MAX));
    }

    /// Counts the bytes of an answer.
    pub(crate) fn answered(&self, bytes: usize) {
        add(&self.sent, bytes);
    }
}

fn add(to: &AtomicU64, count: usize) {
    to.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST_CHARS).collect()
}

impl<B: Backends> Census for Front<B> {
    fn agents(&self, query: &CensusQuery) -> Value {
        let mut all = self.cores(query);
        let total = all.len();
        all.retain(|core| core.caller.agent.0 > query.after);
        all.sort_unstable_by_key(|core| core.caller.agent);
        let more = all.len() > query.limit;
        all.truncate(query.limit);
        let next = all.last().filter(|_| more).map(|core| core.caller.agent.0);
        let agents: Vec<Value> = all.iter().map(|core| agent(core)).collect();
        json!({ "agents": agents, "total": total, "next": next })
    }

    fn calls(&self, query: &CensusQuery) -> Value {
        let mut all: Vec<(Arc<AgentCore>, Arc<CancelFlag>)> = Vec::new();
        for core in self.cores(query) {
            all.extend(core.flags().into_iter().map(|flag| (Arc::clone(&core), flag)));
        }
        let mut all: Vec<_> = all.iter().filter_map(|(core, flag)| Some((core, flag.note.get()?))).collect();
        let total = all.len();
        all.sort_unstable_by_key(|(_, note)| note.trace.started);
        all.truncate(query.limit);
        let calls: Vec<Value> = all.into_iter().map(|(core, note)| call(core, note)).collect();
        json!({ "calls": calls, "total": total })
    }
}

impl<B: Backends> Front<B> {
    /// The cores of all agents: sessions, shared links and listeners.
    fn cores(&self, query: &CensusQuery) -> Vec<Arc<AgentCore>> {
        let mut all = self.agents.cores();
        all.extend(self.sessionless.cores());
        if let Some(backend) = &query.backend {
            all.retain(|core| *core.target.name == **backend);
        }
        all
    }
}

fn agent(core: &AgentCore) -> Value {
    let profile = &core.profile;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let idle = core.common.millis().saturating_sub(of(&core.last_seen));
    let flags = core.flags();
    let waits = |flag: &&Arc<CancelFlag>| flag.note.get().is_some_and(CallNote::waits);
    let has_session = core.transport != Transport::Other;
    json!({
        "agent": core.caller.agent.to_string(),
        "number": core.caller.agent.0,
        "backend": core.target.name,
        "transport": if has_session { core.transport.as_str() } else { Transport::Http.as_str() },
        "era": if has_session { "legacy" } else { "modern" },
        "mode": profile.mode.get(),
        "client": profile.client().map(|client| json!({ "name": client.name, "version": client.version })),
        "peer": profile.peer,
        "principal": core.caller.identity.to_string(),
        "revision": core.revision().map(|revision| revision.as_str()),
        "age_seconds": seconds(profile.began.elapsed()),
        "idle_seconds": if flags.is_empty() { seconds(Duration::from_millis(idle)) } else { 0.0 },
        "listens": matches!(core.outbox.presence(), Presence::Attached(_)),
        "calls_in_flight": flags.len(),
        "calls_waiting": flags.iter().filter(waits).count(),
        "calls": of(&profile.calls),
        "calls_failed": of(&profile.failed),
        "waited_seconds": seconds(Duration::from_millis(of(&profile.waited_ms))),
        "bytes_received": of(&profile.received),
        "bytes_sent": of(&profile.sent),
        "bytes_waiting": core.outbox.owes(),
    })
}

fn call(core: &AgentCore, note: &CallNote) -> Value {
    let trace = &note.trace;
    let running = Instant::now().into_std().saturating_duration_since(trace.started);
    let client = core.profile.client();
    json!({
        "request_id": note.request_id.to_string(),
        "agent": core.caller.agent.to_string(),
        "client": client.map(|client| json!({ "name": client.name, "version": client.version })),
        "peer": core.profile.peer,
        "backend": trace.served_by().unwrap_or(&core.target.name),
        "session": Some(trace.session()).filter(|session| *session > 0),
        "method": short(note.method.as_str()),
        "name": note.name.as_deref().map(short),
        "state": note.state(),
        "running_seconds": seconds(running),
        "waited_seconds": seconds(trace.waited().unwrap_or(running)),
        "attempts": trace.attempts(),
    })
}

impl CallNote {
    fn waits(&self) -> bool {
        self.trace.phase() == Phase::Queued
    }

    fn state(&self) -> &'static str {
        match self.trace.phase() {
            Phase::Queued => "waiting",
            Phase::Sent => "running",
            Phase::Answered => "answered",
        }
    }
}

/// Seconds, to the millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

/// Most characters shown of a text an agent chooses.
const MOST_CHARS: usize = 64;
