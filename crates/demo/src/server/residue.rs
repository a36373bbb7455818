//! What a server keeps between calls: in a session (values, toggles, roots, level, revealed tools), and in itself (a
//! store that loses concurrent writes, an event loop that a call can block).
//!
//! The subtle thing: none of it knows which client of a shared session it belongs to. That is the point.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::{Duration, Instant, sleep_until};

use super::body::Piece;
use super::message::{Framing, outgoing};
use super::session::Session;
use super::stats::lock;
use super::tools::{Args, Work, millis, tool_text};

/// Values one session keeps, and items the store holds; more are refused.
const KEPT: usize = 4096;

/// Levels of `logging/setLevel`, the most verbose first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The state of one session.
#[derive(Debug, Default)]
pub(crate) struct Residue(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    values: BTreeMap<String, String>,
    calls: u64,
    revealed: bool,
    on: bool,
    called: bool,
    level: Option<usize>,
    roots: Option<Vec<String>>,
    credential: Option<HeaderValue>,
    instance: u64,
}

/// The state of the whole server.
#[derive(Debug, Default)]
pub(crate) struct World {
    stored: Mutex<Vec<String>>,
    blocked: Mutex<Option<Instant>>,
}

/// The tools that keep state; `None` for any other name.
pub(crate) fn call(name: &str, args: &Args<'_>, session: &Session, world: &World) -> Option<Work> {
    let residue = &session.residue;
    let key = args.key.as_deref().unwrap_or_default();
    let value = args.value.as_deref().unwrap_or_default();
    let text = match name {
        "set_state" => residue.set(key, value),
        "get_state" => residue.get(key),
        "count" => residue.count(),
        "toggle" => residue.toggle(),
        "reveal" => reveal(session),
        "hidden" if residue.is_revealed() => "you may see it".to_owned(),
        "allowed" => return Some(Work::Allowed { path: key.to_owned() }),
        "store" => return Some(Work::Store { item: value.to_owned(), time: millis(args.ms) }),
        "block" => {
            world.block(millis(args.ms));
            return Some(Work::Block(millis(args.ms)));
        }
        _ => return None,
    };
    Some(Work::Ready(tool_text(&text, false)))
}

fn reveal(session: &Session) -> String {
    lock(&session.residue.0).revealed = true;
    let changed = outgoing(None, "notifications/tools/list_changed", "{}", Framing::Sse);
    // nobody listening is no reason to hide it again
    let told = session.stream().is_some_and(|tx| tx.try_send(Piece::Event(changed)).is_ok());
    if told { "revealed, and told so" } else { "revealed" }.to_owned()
}

impl Residue {
    /// Notes who opened the session, and where.
    pub(crate) fn open(&self, credential: Option<HeaderValue>, instance: u64) {
        let mut kept = lock(&self.0);
        (kept.credential, kept.instance) = (credential, instance);
    }

    /// Whether the session was opened by this credential and on this instance, as far as either is asked about.
    pub(crate) fn is_of(&self, credential: Option<Option<&HeaderValue>>, instance: Option<u64>) -> bool {
        let kept = lock(&self.0);
        credential.is_none_or(|c| c == kept.credential.as_ref())
            && instance.is_none_or(|i| i == kept.instance)
    }

    /// True once in the life of the session.
    pub(crate) fn is_first_call(&self) -> bool {
        !std::mem::replace(&mut lock(&self.0).called, true)
    }

    pub(crate) fn is_revealed(&self) -> bool {
        lock(&self.0).revealed
    }

    /// The level of the session is the one set last, whoever set it.
    pub(crate) fn set_level(&self, level: &str) {
        lock(&self.0).level = LEVELS.iter().position(|l| *l == level);
    }

    /// Whether a line of level `info` is wanted.
    pub(crate) fn logs_info(&self) -> bool {
        lock(&self.0).level.is_none_or(|level| level <= 1)
    }

    pub(crate) fn roots(&self) -> Option<Vec<String>> {
        lock(&self.0).roots.clone()
    }

    pub(crate) fn forget_roots(&self) {
        lock(&self.0).roots = None;
    }

    /// Takes the client's answer to `roots/list`.
    pub(crate) fn set_roots(&self, message: &Bytes) {
        let answer: serde_json::Value = serde_json::from_slice(message).unwrap_or_default();
        let roots = answer["result"]["roots"].as_array().into_iter().flatten();
        let paths = roots.filter_map(|root| root["uri"].as_str()?.strip_prefix("file://").map(str::to_owned));
        lock(&self.0).roots = Some(paths.take(KEPT).collect());
    }

    fn set(&self, key: &str, value: &str) -> String {
        let values = &mut lock(&self.0).values;
        if values.len() < KEPT || values.contains_key(key) {
            values.insert(key.to_owned(), value.to_owned());
        }
        "kept".to_owned()
    }

    fn get(&self, key: &str) -> String {
        lock(&self.0).values.get(key).cloned().unwrap_or_default()
    }

    fn count(&self) -> String {
        let mut kept = lock(&self.0);
        kept.calls += 1;
        kept.calls.to_string()
    }

    fn toggle(&self) -> String {
        let mut kept = lock(&self.0);
        kept.on = !kept.on;
        if kept.on { "on" } else { "off" }.to_owned()
    }
}

impl World {
    /// Everything stored.
    pub(crate) fn stored(&self) -> Vec<String> {
        lock(&self.stored).clone()
    }

    /// Writes back what was read before, with one item more; says how many there are. What others wrote meanwhile is
    /// lost (E15).
    pub(crate) fn store(&self, mut seen: Vec<String>, item: String) -> usize {
        if seen.len() < KEPT {
            seen.push(item);
        }
        let count = seen.len();
        *lock(&self.stored) = seen;
        count
    }

    fn block(&self, time: Duration) {
        *lock(&self.blocked) = Some(Instant::now() + time);
    }

    /// Waits until no call blocks the server any more (E16).
    pub(crate) async fn unblocked(&self) {
        let until = *lock(&self.blocked);
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }
}
