//! Admin actions on one backend: each takes effect at once, then waits for completion up to a given time.

use std::time::Duration;

use mcpool_upstream::{Activity, TrafficState};
use serde_json::{Value, json};

use crate::{registry::Registered, stack::now, text::count};

/// An admin action on a running backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// New calls wait; running calls finish.
    Pause,
    /// Calls continue.
    Resume,
    /// Sessions are replaced while calls continue.
    Reconnect {
        /// Pinned sessions end too; their agents must initialize again.
        pinned: bool,
    },
    /// New calls are rejected, running calls finish, then sessions end.
    Drain,
}

/// The result of an action after its wait.
#[derive(Debug)]
pub struct Done {
    /// True if the action completed.
    pub is_done: bool,
    /// For people.
    pub sentence: String,
    /// For programs.
    pub details: Value,
}

/// Polling interval while an action waits; it costs calls nothing.
const LOOK: Duration = Duration::from_millis(20);

impl Verb {
    /// The action names, as in URLs.
    pub const NAMES: [&'static str; 4] = ["pause", "resume", "reconnect", "drain"];

    /// The action with this name.
    #[must_use]
    pub fn parse(name: &str, pinned: bool) -> Option<Self> {
        Some(match name {
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "reconnect" => Self::Reconnect { pinned },
            "drain" => Self::Drain,
            _ => return None,
        })
    }

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reconnect { .. } => "reconnect",
            Self::Drain => "drain",
        }
    }
}

impl Registered {
    /// Performs an action and waits up to `wait` for it. An incomplete action continues.
    ///
    /// # Cancel safety
    /// The action takes effect before any wait; dropping the future does not undo it.
    pub async fn perform(&self, verb: Verb, wait: Duration) -> Done {
        let started = now();
        self.start(verb);
        let through = async {
            while !self.is_complete(verb) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let is_done = tokio::time::timeout(wait, through).await.is_ok();
        self.report(verb, is_done, now().saturating_duration_since(started))
    }

    fn start(&self, verb: Verb) {
        match verb {
            Verb::Pause => self.backend.pause(),
            Verb::Drain => self.backend.drain(),
            Verb::Reconnect { pinned } => self.backend.reconnect(pinned),
            Verb::Resume => {
                // The circuit opened because of the trouble that the pause was for.
                if self.backend.traffic().is_shut() {
                    self.breaker.reset(now());
                }
                self.backend.resume();
            }
        }
    }

    fn is_complete(&self, verb: Verb) -> bool {
        let Activity { calls, handshakes, sessions } = self.backend.activity();
        match verb {
            Verb::Pause => calls + handshakes == 0,
            Verb::Drain => sessions + handshakes == 0,
            Verb::Resume => {
                // Either a session is ready, or the next call opens one.
                self.backend.traffic() == TrafficState::Flowing
                    && matches!(self.state().0, "ready" | "full" | "idle")
            }
            Verb::Reconnect { .. } => !self.backend.rebuild().is_running,
        }
    }

    fn report(&self, verb: Verb, is_done: bool, took: Duration) -> Done {
        let Activity { calls, handshakes, sessions } = self.backend.activity();
        let rebuild = self.backend.rebuild();
        let (name, (state, reason)) = (&self.name, self.state());
        let waiting = self.backend.status().waiting.calls;
        let failed = matches!(verb, Verb::Reconnect { .. }) && rebuild.why.is_some();
        let still = format!(
            "{} in flight, {}, {}",
            count(calls, "call"),
            count(handshakes, "handshake"),
            count(sessions, "session")
        );
        let waiting_calls = format!("{} waiting", count(waiting, "call"));
        let sentence = match (verb, is_done) {
            (Verb::Pause, true) => format!("{name} is paused: nothing is in flight, {waiting_calls}"),
            (Verb::Pause, false) => {
                format!("{name} is paused, but not at rest yet: {still}; {waiting_calls}")
            }
            (Verb::Resume, true) => format!("{name} serves again: {waiting_calls}"),
            (Verb::Resume, false) => {
                format!("{name} takes calls again, but has no session ({state}: {reason}); {waiting_calls}")
            }
            (Verb::Drain, true) => format!("{name} is drained: no session is left, calls are refused"),
            (Verb::Drain, false) => format!("{name} refuses calls, but is not empty yet: {still}"),
            (Verb::Reconnect { .. }, true) if failed => format!(
                "{name}: {} of {} sessions replaced; the others stay: {}",
                rebuild.done,
                rebuild.total,
                rebuild.why.as_deref().unwrap_or_default()
            ),
            (Verb::Reconnect { .. }, true) => format!("{name}: {} replaced", count(rebuild.done, "session")),
            (Verb::Reconnect { .. }, false) => {
                format!(
                    "{name}: {} of {} sessions replaced so far{}",
                    rebuild.done,
                    rebuild.total,
                    self.trouble()
                )
            }
        };
        let details = json!({
            "backend": name,
            "verb": verb.as_str(),
            "done": is_done && !failed,
            "state": state,
            "message": sentence,
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "calls_in_flight": calls,
            "handshakes": handshakes,
            "sessions": sessions,
            "waiting_calls": waiting,
            "reconnect": { "sessions": rebuild.total, "done": rebuild.done, "why": rebuild.why },
        });
        Done { is_done: is_done && !failed, sentence, details }
    }

    fn trouble(&self) -> String {
        self.backend.trouble().map(|trouble| format!(" ({})", trouble.why)).unwrap_or_default()
    }
}
