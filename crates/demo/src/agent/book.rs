//! Who waits for what: pending answers, progress, notifications, and a count of everything that was nobody's.
//!
//! The subtle thing: an answer to an id nobody waits for is not dropped silently but counted: that count is
//! how the tests see cross-talk.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};

use super::AgentError;
use crate::server::lock;

/// Notifications kept for the test to look at; older ones fall out.
const KEPT: usize = 4096;

/// All that waits, and all that came unasked.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pending: Mutex<Pending>,
    notifications: Mutex<VecDeque<(String, Value)>>,
    news: Notify,
    pub(crate) unknown_answers: AtomicU64,
    pub(crate) unknown_progress: AtomicU64,
    pub(crate) garbage: AtomicU64,
}

#[derive(Debug)]
enum Pending {
    Open(HashMap<String, Waiter>),
    Closed(String),
}

impl Default for Pending {
    fn default() -> Self {
        Self::Open(HashMap::new())
    }
}

#[derive(Debug)]
struct Waiter {
    tx: oneshot::Sender<Bytes>,
    progress: Option<mpsc::Sender<Value>>,
}

/// A place in the book; leaves it on drop.
#[derive(Debug)]
pub(crate) struct Place {
    book: Arc<Book>,
    id: String,
    pub(crate) rx: oneshot::Receiver<Bytes>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Pending::Open(map) = &mut *lock(&self.book.pending) {
            map.remove(&self.id);
        }
    }
}

/// A request of the server, to be answered.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) params: Value,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

impl Book {
    /// Enters a request under its raw id.
    pub(crate) fn enter(
        self: &Arc<Self>,
        id: &str,
        progress: Option<mpsc::Sender<Value>>,
    ) -> Result<Place, AgentError> {
        let (tx, rx) = oneshot::channel();
        match &mut *lock(&self.pending) {
            Pending::Closed(why) => return Err(AgentError::Closed(why.clone())),
            Pending::Open(map) => map.insert(id.to_owned(), Waiter { tx, progress }),
        };
        Ok(Place { book: Arc::clone(self), id: id.to_owned(), rx })
    }

    /// Tells everybody who waits, and everybody to come, that nothing more arrives.
    pub(crate) fn close(&self, why: &str) {
        let mut pending = lock(&self.pending);
        if matches!(&*pending, Pending::Open(_)) {
            *pending = Pending::Closed(why.to_owned());
        }
    }

    /// Why nothing more arrives, if so.
    pub(crate) fn closed(&self) -> Option<String> {
        match &*lock(&self.pending) {
            Pending::Open(_) => None,
            Pending::Closed(why) => Some(why.clone()),
        }
    }

    /// Takes one message of the server; a request comes back as a question.
    pub(crate) fn deliver(&self, message: &Bytes) -> Option<Question> {
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(message) else {
            self.garbage.fetch_add(1, Relaxed);
            return None;
        };
        match (frame.method, frame.id) {
            (Some(method), Some(id)) => {
                let params = value(frame.params);
                return Some(Question { id: id.get().to_owned(), method: method.into_owned(), params });
            }
            (Some(method), None) if method == "notifications/progress" => self.progress(value(frame.params)),
            (Some(method), None) => self.note(method.into_owned(), value(frame.params)),
            (None, Some(id)) => self.answer(id.get(), message),
            (None, None) => drop(self.garbage.fetch_add(1, Relaxed)),
        }
        None
    }

    fn answer(&self, id: &str, message: &Bytes) {
        let waiter = match &mut *lock(&self.pending) {
            Pending::Open(map) => map.remove(id),
            Pending::Closed(_) => None,
        };
        match waiter {
            Some(waiter) => drop(waiter.tx.send(message.clone())),
            None => drop(self.unknown_answers.fetch_add(1, Relaxed)),
        }
    }

    fn progress(&self, params: Value) {
        let token = params.get("progressToken").map(Value::to_string).unwrap_or_default();
        let tx = match &*lock(&self.pending) {
            Pending::Open(map) => map.get(&token).and_then(|w| w.progress.clone()),
            Pending::Closed(_) => None,
        };
        match tx {
            // a caller that does not look at its progress loses the latest of it
            Some(tx) => drop(tx.try_send(params)),
            None => drop(self.unknown_progress.fetch_add(1, Relaxed)),
        }
    }

    fn note(&self, method: String, params: Value) {
        let mut kept = lock(&self.notifications);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((method, params));
        drop(kept);
        self.news.notify_waiters();
    }

    pub(crate) fn notifications(&self) -> Vec<(String, Value)> {
        lock(&self.notifications).iter().cloned().collect()
    }

    /// Takes the oldest notification of this method, waiting for it if need be.
    pub(crate) async fn next_note(&self, method: &str) -> Value {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // registered before looking, so that none slips through between
            news.as_mut().enable();
            let taken = {
                let mut kept = lock(&self.notifications);
                let at = kept.iter().position(|(m, _)| m == method);
                at.and_then(|at| kept.remove(at))
            };
            if let Some((_, params)) = taken {
                return params;
            }
            news.await;
        }
    }
}

fn value(raw: Option<&RawValue>) -> Value {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}
