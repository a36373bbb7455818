//! Status of the gateway: readiness, and a snapshot of each backend for people and programs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use mcpool_front::{Health, Readiness};
use mcpool_upstream::{Endpoint, Mode};
use serde_json::{Map, Value, json};

use crate::config::reached_at;
use mcpool_router::{gateway::Gateway, registry::Registered, stack::now};

/// The status of the gateway.
pub struct Status {
    gateway: Arc<Gateway>,
    phase: AtomicU8,
    /// The note on the state folder, if any.
    state_folder: Mutex<Option<FolderNote>>,
}

/// Phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Before serving agents.
    Starting = 0,
    /// Serving agents.
    Serving = 1,
    /// Shutting down.
    Draining = 2,
}

/// A note on the state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderNote {
    /// The reason, for people.
    pub why: String,
    /// True if the operator must act, or agents lose state.
    pub is_trouble: bool,
}

impl Status {
    /// The status of a starting gateway.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, phase: AtomicU8::new(Phase::Starting as u8), state_folder: Mutex::default() }
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Sets or clears the note on the state folder.
    pub fn state_folder(&self, note: Option<FolderNote>) {
        *self.state_folder.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    fn folder_note(&self) -> Option<FolderNote> {
        self.state_folder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Snapshots of all backends.
    #[must_use]
    pub fn backends(&self) -> Vec<Value> {
        self.gateway.backends().iter().map(|registered| Value::Object(picture(registered))).collect()
    }

    /// Snapshot of the backend of this name with its sessions.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<Value> {
        let registered = self.find(name)?;
        let mut picture = picture(&registered);
        picture.insert("session_list".to_owned(), sessions(&registered));
        Some(Value::Object(picture))
    }

    /// Sessions of the backend of this name.
    #[must_use]
    pub fn sessions(&self, name: &str) -> Option<Value> {
        self.find(name).map(|registered| sessions(&registered))
    }

    /// The backend of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Registered>> {
        self.gateway.backends().into_iter().find(|registered| registered.name.as_ref() == name)
    }

    /// All names, for the message about an unknown one.
    #[must_use]
    pub fn names(&self) -> String {
        let backends = self.gateway.backends();
        backends.iter().map(|registered| registered.name.as_ref()).collect::<Vec<_>>().join(", ")
    }

    /// True if agents of some backend are not served, also by an admin action.
    fn is_degraded(&self) -> bool {
        self.folder_note().is_some_and(|note| note.is_trouble)
            || self.gateway.backends().iter().any(|registered| match registered.state().0 {
                "down" | "paused" | "drained" => true,
                // Served agents are fine; waiting ones are not.
                "full" => registered.backend.status().applicants.0 > 0,
                _ => false,
            })
    }
}

impl Health for Status {
    fn readiness(&self) -> Readiness {
        match self.phase.load(Ordering::Relaxed) {
            0 => Readiness::Starting,
            1 if self.is_degraded() => Readiness::Degraded,
            1 => Readiness::Ok,
            _ => Readiness::Draining,
        }
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn details(&self) -> Map<String, Value> {
        let backends: Map<String, Value> = self
            .gateway
            .backends()
            .iter()
            .map(|registered| (registered.name.to_string(), brief(registered)))
            .collect();
        let mut details = Map::from_iter([("backends".to_owned(), Value::Object(backends))]);
        if let Some(note) = self.folder_note() {
            details.insert("state_dir".to_owned(), json!({ "reason": note.why }));
        }
        details
    }
}

/// The backend's entry in `/readyz`.
fn brief(registered: &Registered) -> Value {
    let (state, reason) = registered.state();
    let status = registered.backend.status();
    json!({
        "state": state,
        "reason": reason,
        "circuit": registered.breaker.snapshot(now()).state.as_str(),
        "agents": status.agents,
        "sessions": status.sessions.iter().filter(|session| session.standing == "ready").count(),
        "waiting_calls": status.waiting.calls,
        "waiting_agents": status.applicants.0,
    })
}

fn picture(registered: &Registered) -> Map<String, Value> {
    let (state, reason) = registered.state();
    let spec = registered.backend.spec();
    let status = registered.backend.status();
    let of_mode = |mode| status.sessions.iter().filter(|session| session.mode == mode).count();
    let trouble = status.trouble.as_ref().map(|trouble| {
        json!({
            "why": trouble.why,
            "times": trouble.times,
            "seconds_ago": seconds(now().saturating_duration_since(trouble.since)),
        })
    });
    let demotion = status.demotion.as_ref().map(|demotion| {
        json!({
            "evidence": demotion.evidence.as_str(),
            "why": demotion.why,
            "seconds_ago": seconds(now().saturating_duration_since(demotion.at)),
        })
    });
    let (url, command) = match &spec.endpoint {
        Endpoint::Http(_) => (Some(reached_at(&spec.endpoint)), None),
        Endpoint::Stdio(_) => (None, Some(reached_at(&spec.endpoint))),
    };
    let picture = json!({
        "name": registered.name,
        "id": spec.id.0,
        "generation": spec.generation,
        "origin": spec.origin.as_str(),
        "url": url,
        "command": command,
        "state": state,
        "reason": reason,
        "transport": status.transport,
        "era": status.era.map(mcpool_wire::Era::as_str),
        "mode": status.mode.map_or(spec.mode.as_str(), |decision| decision.mode.as_str()),
        "mode_reason": status.mode.map(|decision| decision.reason.as_str()),
        "mode_because": status.mode.map(|decision| decision.reason.sentence()),
        "demotion": demotion,
        "server": status.server,
        "agents": status.agents,
        "traffic": status.traffic.0.as_str(),
        "traffic_seconds": seconds(status.traffic.1),
        "reconnect": {
            "sessions": status.rebuild.total,
            "done": status.rebuild.done,
            "running": status.rebuild.is_running,
            "why": status.rebuild.why,
        },
        "sessions": {
            "ready": status.sessions.iter().filter(|session| session.standing == "ready").count(),
            "stateless": of_mode(Mode::Stateless),
            "shared": of_mode(Mode::Shared),
            "exclusive": of_mode(Mode::Exclusive),
            "pinned": of_mode(Mode::Pinned),
            "opening": status.opening,
            "taken": status.places.0,
            "limit": status.places.1,
            "waiting_agents": status.applicants.0,
        },
        "calls": {
            "in_flight": status.leases.0,
            "limit": status.leases.1,
            "waiting": status.waiting.calls,
            "waiting_limit": status.waiting.limits.calls,
            "waiting_bytes": status.waiting.bytes,
            "waiting_bytes_limit": status.waiting.limits.bytes,
            "oldest_wait_seconds": status.waiting.oldest.max(status.applicants.1).map(seconds),
        },
        "circuit": circuit(registered, now()),
        "trouble": trouble,
    });
    match picture {
        Value::Object(picture) => picture,
        _ => Map::new(),
    }
}

fn circuit(registered: &Registered, now: Instant) -> Value {
    let snapshot = registered.breaker.snapshot(now);
    let incidents: Map<String, Value> =
        snapshot.incidents.iter().map(|(kind, times)| ((*kind).to_owned(), (*times).into())).collect();
    json!({
        "state": snapshot.state.as_str(),
        "seconds_in_state": seconds(snapshot.in_state),
        "next_probe_in_seconds": snapshot.next_probe.map(|at| seconds(at.saturating_duration_since(now))),
        "incidents": incidents,
        "rejected": snapshot.rejected,
        "slow_start": snapshot.slow_start.map(|slow_start| {
            json!({ "calls_limit": slow_start.limit, "calls_in_flight": slow_start.in_flight })
        }),
    })
}

fn sessions(registered: &Registered) -> Value {
    let sessions = registered.backend.status().sessions;
    let shown = sessions.iter().map(|session| {
        json!({
            "session": session.epoch,
            "mode": session.mode.as_str(),
            "state": session.standing,
            "calls_in_flight": session.in_flight,
            "pending": session.pending,
            "age_seconds": seconds(session.age),
        })
    });
    shown.collect()
}

/// Seconds, rounded to milliseconds.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}
