//! Recent events of sessions, circuits and admin actions: a bounded ring, and a bounded channel for followers. Single
//! calls are not included.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, stream};
use mcpool_breaker::Transition;
use mcpool_upstream::Event;
use serde_json::{Value, json};
use tokio::sync::{
    Semaphore,
    broadcast::{self, error::RecvError},
};

use super::process::seconds_now;

/// The stored events.
pub struct Events {
    ring: Mutex<Ring>,
    tell: broadcast::Sender<Arc<str>>,
    followers: Arc<Semaphore>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Arc<str>>,
    last: u64,
}

/// Number of stored events, and maximum lag of a follower.
const KEPT: usize = 512;
/// Maximum number of followers.
const FOLLOWERS: usize = 32;

impl Default for Events {
    fn default() -> Self {
        let ring = Mutex::new(Ring::default());
        Self { ring, tell: broadcast::Sender::new(KEPT), followers: Arc::new(Semaphore::new(FOLLOWERS)) }
    }
}

impl Events {
    /// Records an admin action.
    pub fn operator(&self, backend: &str, verb: &str, message: &str, (peer, took): (SocketAddr, Duration)) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let line = json!({ "event": "operator", "verb": verb, "message": message, "peer": peer, "took_ms": took_ms });
        self.note(backend, line);
    }

    /// The stored lines, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Arc<str>> {
        self.lock().lines.iter().cloned().collect()
    }

    /// The stored lines and a stream of new ones. `None` if there are too many followers.
    pub fn follow(&self) -> Option<(Vec<Arc<str>>, impl Stream<Item = Arc<str>> + use<>)> {
        let place = self.followers.clone().try_acquire_owned().ok()?;
        // Under one lock, so that no line is lost or repeated.
        let (recent, live) = {
            let ring = self.lock();
            (ring.lines.iter().cloned().collect(), self.tell.subscribe())
        };
        let live = stream::unfold((live, place), |(mut live, place)| async move {
            let line = match live.recv().await {
                Ok(line) => line,
                Err(RecvError::Lagged(missed)) => {
                    json!({ "event": "missed", "count": missed }).to_string().into()
                }
                Err(RecvError::Closed) => return None,
            };
            Some((line, (live, place)))
        });
        Some((recent, live))
    }

    pub(super) fn backend(&self, backend: &str, event: &Event<'_>) {
        let line = match event {
            Event::Opened { epoch, mode, reason, transport, .. } => json!({
                "event": "session_opened", "session": epoch, "mode": mode.as_str(), "reason": reason.as_str(),
                "transport": transport,
            }),
            Event::OpenFailed { epoch, reason, incident, why, .. } => json!({
                "event": "session_not_opened", "session": epoch, "reason": reason.as_str(), "incident": incident,
                "why": why,
            }),
            Event::Closed { epoch, mode, reason, incident, why } => json!({
                "event": "session_closed", "session": epoch, "mode": mode.as_str(), "reason": reason.as_str(),
                "incident": incident, "why": why,
            }),
            Event::ModeChosen { mode, reason } => {
                json!({ "event": "mode_chosen", "mode": mode.as_str(), "reason": reason.as_str() })
            }
            Event::Demoted { evidence, why } => {
                json!({ "event": "sharing_withdrawn", "evidence": evidence.as_str(), "why": why })
            }
            Event::Panicked { task, why } => json!({ "event": "panic", "task": task, "why": why }),
            Event::Opening { .. }
            | Event::Rung { .. }
            | Event::Answered { .. }
            | Event::Probed { .. }
            | Event::Dropped { .. }
            | Event::Status { .. } => return,
        };
        self.note(backend, line);
    }

    pub(super) fn transition(&self, backend: &str, transition: &Transition) {
        let (from, to) = (transition.from.as_str(), transition.to.as_str());
        let line =
            json!({ "event": "circuit", "from": from, "to": to, "reason": transition.reason.as_str() });
        self.note(backend, line);
    }

    fn note(&self, backend: &str, mut line: Value) {
        let mut ring = self.lock();
        ring.last += 1;
        line["seq"] = ring.last.into();
        line["unix_seconds"] = ((seconds_now() * 1e3).round() / 1e3).into();
        line["backend"] = backend.into();
        let line: Arc<str> = line.to_string().into();
        if ring.lines.len() == KEPT {
            ring.lines.pop_front();
        }
        ring.lines.push_back(line.clone());
        // An error means that there are no followers.
        let _ = self.tell.send(line);
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    fn by() -> (SocketAddr, Duration) {
        (([127, 0, 0, 1], 9).into(), Duration::ZERO)
    }

    #[tokio::test]
    async fn the_ring_is_bounded_and_a_follower_misses_nothing_in_between() {
        let events = Events::default();
        for n in 0..KEPT + 10 {
            events.operator("a", "pause", &n.to_string(), by());
        }
        let (recent, live) = events.follow().unwrap();
        events.operator("a", "resume", "the next", by());
        let mut live = std::pin::pin!(live);
        let next: Value = serde_json::from_str(&live.next().await.unwrap()).unwrap();
        let first: Value = serde_json::from_str(&recent[0]).unwrap();
        assert_eq!((recent.len(), &first["seq"], &next["seq"]), (KEPT, &11.into(), &(KEPT + 11).into()));
        assert_eq!((&next["message"], &next["backend"]), (&"the next".into(), &"a".into()));
        for _ in 0..KEPT + 5 {
            events.operator("a", "pause", "flood", by());
        }
        let missed: Value = serde_json::from_str(&live.next().await.unwrap()).unwrap();
        assert_eq!((&missed["event"], &missed["count"]), (&"missed".into(), &5.into()));
    }

    #[tokio::test]
    async fn followers_are_bounded_and_give_their_place_back() {
        let events = Events::default();
        let all: Vec<_> = std::iter::from_fn(|| events.follow()).collect();
        assert_eq!(all.len(), FOLLOWERS);
        drop(all);
        assert!(events.follow().is_some());
    }
}
