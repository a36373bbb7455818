//! What the server saw, in atomics and two bounded maps.
//!
//! The subtle thing: counters live as long as the `Server` handle, over restarts; gauges (`open`, `in
//! flight`) go down by guards, so they cannot drift when a connection is cut.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Nonces remembered by `add`; more are only counted.
const NONCES: usize = 1 << 18;

/// Methods counted by name; anything else is `other`.
const METHODS: [&str; 20] = [
    "initialize",
    "notifications/initialized",
    "notifications/cancelled",
    "ping",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "notifications/roots/list_changed",
    "server/discover",
    "notifications/progress",
    "response",
    "other",
];

/// A gauge with its peak.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    fn up(&self) {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(now, Relaxed);
    }
    fn down(&self) {
        self.now.fetch_sub(1, Relaxed);
    }
}

/// Live counters.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) sessions_opened: AtomicU64,
    pub(crate) sessions: Gauge,
    pub(crate) sessions_refused: AtomicU64,
    pub(crate) in_flight: Gauge,
    pub(crate) connections_opened: AtomicU64,
    pub(crate) connections: Gauge,
    pub(crate) streams: Gauge,
    pub(crate) initializes: AtomicU64,
    pub(crate) too_early: AtomicU64,
    pub(crate) duplicate_ids: AtomicU64,
    pub(crate) cancels: AtomicU64,
    pub(crate) deletes: AtomicU64,
    pub(crate) asks: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) pings_missed: AtomicU64,
    methods: [AtomicU64; METHODS.len()],
    refused: Mutex<BTreeMap<u16, u64>>,
    executions: Mutex<HashMap<String, u64>>,
    executions_total: AtomicU64,
}

/// Which gauge a [`Held`] keeps up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Session,
    Request,
    Connection,
    Stream,
}

/// One unit of a gauge, given back on drop.
#[derive(Debug)]
pub(crate) struct Held(Arc<Stats>, Kind);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.gauge(self.1).down();
    }
}

impl Stats {
    fn gauge(&self, kind: Kind) -> &Gauge {
        match kind {
            Kind::Session => &self.sessions,
            Kind::Request => &self.in_flight,
            Kind::Connection => &self.connections,
            Kind::Stream => &self.streams,
        }
    }

    /// Raises a gauge until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, kind: Kind) -> Held {
        self.gauge(kind).up();
        Held(Arc::clone(self), kind)
    }

    pub(crate) fn method(&self, name: &str) {
        let at = METHODS.iter().position(|m| *m == name).unwrap_or(METHODS.len() - 1);
        self.methods[at].fetch_add(1, Relaxed);
    }

    pub(crate) fn status(&self, status: u16) {
        *lock(&self.refused).entry(status).or_default() += 1;
    }

    /// Counts one execution and says which one it was for this nonce.
    pub(crate) fn executed(&self, nonce: &str) -> u64 {
        self.executions_total.fetch_add(1, Relaxed);
        let mut map = lock(&self.executions);
        if let Some(n) = map.get_mut(nonce) {
            *n += 1;
            return *n;
        }
        if map.len() < NONCES {
            map.insert(nonce.to_owned(), 1);
        }
        1
    }

    pub(crate) fn executions(&self, nonce: &str) -> u64 {
        lock(&self.executions).get(nonce).copied().unwrap_or(0)
    }

    pub(crate) fn snapshot(&self) -> StatsSnapshot {
        let methods = METHODS.iter().zip(&self.methods).map(|(m, n)| (*m, n.load(Relaxed)));
        let executions = lock(&self.executions);
        StatsSnapshot {
            sessions_opened: self.sessions_opened.load(Relaxed),
            sessions_open: self.sessions.now.load(Relaxed),
            sessions_peak: self.sessions.peak.load(Relaxed),
            sessions_refused: self.sessions_refused.load(Relaxed),
            in_flight: self.in_flight.now.load(Relaxed),
            in_flight_peak: self.in_flight.peak.load(Relaxed),
            connections_opened: self.connections_opened.load(Relaxed),
            connections_open: self.connections.now.load(Relaxed),
            streams_open: self.streams.now.load(Relaxed),
            initializes: self.initializes.load(Relaxed),
            too_early: self.too_early.load(Relaxed),
            duplicate_ids: self.duplicate_ids.load(Relaxed),
            cancels: self.cancels.load(Relaxed),
            deletes: self.deletes.load(Relaxed),
            asks: self.asks.load(Relaxed),
            faults: self.faults.load(Relaxed),
            pings_missed: self.pings_missed.load(Relaxed),
            requests: methods.filter(|(_, n)| *n > 0).collect(),
            refused: lock(&self.refused).clone(),
            executions: self.executions_total.load(Relaxed),
            executions_peak: executions.values().copied().max().unwrap_or(0),
            nonces: executions.len() as u64,
        }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Sessions ever opened, of both transports.
    pub sessions_opened: u64,
    /// Sessions open now.
    pub sessions_open: u64,
    /// Most sessions open at once.
    pub sessions_peak: u64,
    /// Sessions refused because of the cap.
    pub sessions_refused: u64,
    /// Requests being worked on now.
    pub in_flight: u64,
    /// Most requests worked on at once.
    pub in_flight_peak: u64,
    /// TCP connections ever accepted.
    pub connections_opened: u64,
    /// TCP connections open now.
    pub connections_open: u64,
    /// HTTP+SSE and GET streams open now.
    pub streams_open: u64,
    /// `initialize` requests received.
    pub initializes: u64,
    /// Requests that came before `notifications/initialized`, or without any session.
    pub too_early: u64,
    /// Requests whose id was already in flight on their session.
    pub duplicate_ids: u64,
    /// `notifications/cancelled` received.
    pub cancels: u64,
    /// DELETE requests that ended a session.
    pub deletes: u64,
    /// Requests sent to clients (elicitation, sampling, roots).
    pub asks: u64,
    /// Scripted faults applied.
    pub faults: u64,
    /// Sessions closed because a ping stayed unanswered.
    pub pings_missed: u64,
    /// Messages received by method; only those seen.
    pub requests: BTreeMap<&'static str, u64>,
    /// Non-2xx statuses sent.
    pub refused: BTreeMap<u16, u64>,
    /// Executions of `add`.
    pub executions: u64,
    /// Most executions any one nonce had; 1 means no duplicate.
    pub executions_peak: u64,
    /// Distinct nonces `add` has seen (bounded).
    pub nonces: u64,
}

impl StatsSnapshot {
    /// How many messages of this method were received.
    #[must_use]
    pub fn requests_of(&self, method: &str) -> u64 {
        self.requests.get(method).copied().unwrap_or(0)
    }
    /// How many answers had a status other than 2xx.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// A poisoned map of counters is still a map of counters.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
