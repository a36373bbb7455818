//! One MCP session of the backend, and the table of them.
//!
//! The subtle thing: a request in flight is found by its id *as the dialect keys it*; a second request with
//! the same key takes the entry over and the first is orphaned, as in the real servers.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::body::Piece;
use super::message::plain;
use super::residue::Residue;
use super::stats::{Held, Kind, Stats, lock};
use crate::script::IdDialect;

/// Pieces a stream may hold for a client that does not read.
pub(crate) const STREAM_BUFFER: usize = 256;
/// Requests of one session worked on at once; more are refused.
pub(crate) const IN_FLIGHT: usize = 8192;
/// Resources one session may subscribe to.
const SUBSCRIPTIONS: usize = 1024;

/// Which transport opened the session; the identity of its stream lives with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Sse,
    Http,
    /// No session at all: one request.
    Stateless,
}

/// What the client said it can do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClientCaps {
    pub(crate) sampling: bool,
    pub(crate) elicitation: bool,
    pub(crate) roots: bool,
}

/// How a request in flight was told to stop.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub(crate) cancelled: CancellationToken,
    /// Another request took the same key; this one's answer finds no way home on Streamable HTTP.
    pub(crate) orphaned: AtomicBool,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) wire: Wire,
    pub(crate) initialized: AtomicBool,
    pub(crate) answered_initialize: AtomicBool,
    pub(crate) caps: Mutex<ClientCaps>,
    pub(crate) closed: CancellationToken,
    /// Wakes calls held back by `out_of_order`.
    pub(crate) turn: Notify,
    pub(crate) calls: AtomicU64,
    /// What earlier users of the session left in it.
    pub(crate) residue: Residue,
    stream: Mutex<Option<mpsc::Sender<Piece>>>,
    flights: Mutex<HashMap<String, Arc<Flight>>>,
    asks: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
    next_ask: AtomicU64,
    subscriptions: Mutex<HashSet<String>>,
    last_used: Mutex<Instant>,
    held: Mutex<Option<Held>>,
}

impl Session {
    fn new(id: String, wire: Wire, held: Option<Held>) -> Self {
        Self {
            id,
            wire,
            initialized: AtomicBool::new(false),
            answered_initialize: AtomicBool::new(false),
            caps: Mutex::default(),
            closed: CancellationToken::new(),
            turn: Notify::new(),
            calls: AtomicU64::new(0),
            residue: Residue::default(),
            stream: Mutex::new(None),
            flights: Mutex::default(),
            asks: Mutex::default(),
            next_ask: AtomicU64::new(1),
            subscriptions: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
            held: Mutex::new(held),
        }
    }

    /// A stand-in for one request without a session; born initialized.
    pub(crate) fn stateless() -> Arc<Self> {
        let session = Self::new(String::new(), Wire::Stateless, None);
        session.initialized.store(true, Relaxed);
        Arc::new(session)
    }

    /// Attaches the session's own stream; `None` when one is attached already.
    pub(crate) fn attach(&self) -> Option<mpsc::Receiver<Piece>> {
        let mut stream = lock(&self.stream);
        if stream.as_ref().is_some_and(|tx| !tx.is_closed()) {
            return None;
        }
        let (tx, rx) = mpsc::channel(STREAM_BUFFER);
        *stream = Some(tx);
        Some(rx)
    }

    /// The sending half of the session's own stream, while somebody reads it.
    pub(crate) fn stream(&self) -> Option<mpsc::Sender<Piece>> {
        lock(&self.stream).clone().filter(|tx| !tx.is_closed())
    }

    /// Ends the session's own stream; the session lives on.
    pub(crate) fn detach(&self) {
        if let Some(tx) = lock(&self.stream).take() {
            // a full stream ends when its last sender is gone
            let _ = tx.try_send(Piece::End);
        }
    }

    /// Enters a request under its key. `Err` when the session has too many.
    pub(crate) fn enter(self: &Arc<Self>, key: String, stats: &Stats) -> Result<Ticket, ()> {
        let flight = Arc::new(Flight::default());
        let mut flights = lock(&self.flights);
        if flights.len() >= IN_FLIGHT {
            return Err(());
        }
        if let Some(first) = flights.insert(key.clone(), Arc::clone(&flight)) {
            stats.duplicate_ids.fetch_add(1, Relaxed);
            first.orphaned.store(true, Relaxed);
        }
        drop(flights);
        Ok(Ticket { session: Arc::clone(self), key, flight })
    }

    /// Whether nothing is in flight, so that an instant request need not enter at all.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.flights).is_empty()
    }

    /// Tells the request with this key to stop.
    pub(crate) fn cancel(&self, key: &str) {
        if let Some(flight) = lock(&self.flights).get(key) {
            flight.cancelled.cancel();
        }
    }

    /// A fresh id for a request to the client, and where its answer will arrive.
    pub(crate) fn ask(&self) -> (u64, oneshot::Receiver<Bytes>) {
        let id = self.next_ask.fetch_add(1, Relaxed);
        let (tx, rx) = oneshot::channel();
        lock(&self.asks).insert(id, tx);
        (id, rx)
    }

    pub(crate) fn forget_ask(&self, id: u64) {
        lock(&self.asks).remove(&id);
    }

    /// Hands the client's answer (the whole message) to whoever asked.
    pub(crate) fn answered(&self, id: &str, message: &Bytes) {
        let waiting = id.parse::<u64>().ok().and_then(|id| lock(&self.asks).remove(&id));
        if let Some(tx) = waiting {
            let _ = tx.send(message.clone());
        }
    }

    pub(crate) fn subscribe(&self, uri: &str) {
        let mut set = lock(&self.subscriptions);
        if set.len() < SUBSCRIPTIONS {
            set.insert(uri.to_owned());
        }
    }

    pub(crate) fn unsubscribe(&self, uri: &str) {
        lock(&self.subscriptions).remove(uri);
    }

    pub(crate) fn is_subscribed(&self, uri: &str) -> bool {
        lock(&self.subscriptions).contains(uri)
    }

    pub(crate) fn subscriptions(&self) -> Vec<String> {
        lock(&self.subscriptions).iter().cloned().collect()
    }

    /// No longer counts as open.
    pub(crate) fn release(&self) {
        lock(&self.held).take();
    }

    fn touch(&self) {
        *lock(&self.last_used) = Instant::now();
    }

    fn is_stale(&self, after: Duration) -> bool {
        self.stream().is_none() && self.is_idle() && lock(&self.last_used).elapsed() >= after
    }
}

/// A Streamable session nobody used for this long makes room for a new one at the cap.
const STALE: Duration = Duration::from_secs(600);

/// A request in flight; leaves the session's map on drop, unless its key was taken over.
#[derive(Debug)]
pub(crate) struct Ticket {
    session: Arc<Session>,
    key: String,
    pub(crate) flight: Arc<Flight>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut flights = lock(&self.session.flights);
        if flights.get(&self.key).is_some_and(|f| Arc::ptr_eq(f, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

/// An id as the dialect keys it.
pub(crate) fn key(raw_id: &str, ids: IdDialect) -> String {
    match ids {
        IdDialect::Typed => raw_id.to_owned(),
        IdDialect::Text => plain(raw_id).into_owned(),
    }
}

/// All sessions, bounded by the script's cap.
#[derive(Debug, Default)]
pub(crate) struct Sessions(RwLock<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// Opens a session; `None` at the cap.
    pub(crate) fn open(&self, wire: Wire, cap: usize, stats: &Arc<Stats>) -> Option<Arc<Session>> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= cap {
            map.retain(|_, s| s.wire != Wire::Http || !s.is_stale(STALE));
        }
        if map.len() >= cap {
            stats.sessions_refused.fetch_add(1, Relaxed);
            return None;
        }
        stats.sessions_opened.fetch_add(1, Relaxed);
        let id = format!("{:032x}", rand::random::<u128>());
        let session = Arc::new(Session::new(id.clone(), wire, Some(stats.hold(Kind::Session))));
        map.insert(id, Arc::clone(&session));
        Some(session)
    }

    /// The session of this id, unless it was left alone for longer than `expiry`.
    pub(crate) fn find(&self, id: &str, wire: Wire, expiry: Option<Duration>) -> Option<Arc<Session>> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let session = map.get(id).filter(|s| s.wire == wire).cloned();
        drop(map);
        let session = session?;
        if expiry.is_some_and(|after| session.is_stale(after)) {
            self.close(&session);
            return None;
        }
        session.touch();
        Some(session)
    }

    /// Ends a session: out of the table, calls stopped, stream ended.
    pub(crate) fn close(&self, session: &Session) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&session.id);
        session.release();
        session.closed.cancel();
        session.detach();
    }

    /// Empties the table and returns who was in it.
    pub(crate) fn take_all(&self) -> Vec<Arc<Session>> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = std::mem::take(&mut *map).into_values().collect();
        all.iter().for_each(|s| s.release());
        all
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
