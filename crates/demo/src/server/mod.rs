//! The scriptable backend: both legacy transports on one listener, with faults, dialects and statistics.
//!
//! The subtle thing: the handle outlives the listener. [`Server::stop`] drops listener and connections at
//! once, as `kill -9` would; [`Server::restart`] takes the same port with an empty memory, [`Server::replace`] never
//! lets go of it; statistics go on.

pub mod accept;
pub mod body;
mod catalog;
mod dispatch;
mod faults;
pub mod http;
mod job;
mod message;
pub mod records;
mod residue;
mod session;
mod sse;
mod stats;
mod streamable;
mod tools;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::body::Piece;
use self::faults::Faults;
use self::message::{Framing, outgoing};
pub use self::records::Recorded;
use self::records::Records;
use self::residue::World;
use self::session::{Session, Sessions};
use self::stats::Stats;
pub use self::stats::StatsSnapshot;
pub use self::stats::lock;
use crate::script::{Fault, FaultKind, Script, Stage};

/// A running (or stopped) backend. Dropping it stops everything it started.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addr: SocketAddr,
    life: Mutex<Option<Life>>,
}

/// What ends with the process it stands for, and the socket, which a supervisor may hand to the next one.
#[derive(Debug)]
struct Life {
    run: Run,
    listener: Arc<TcpListener>,
}

/// What outlives a restart, and the sessions, which do not.
#[derive(Debug)]
pub(crate) struct Shared {
    script: RwLock<Arc<Script>>,
    pub(crate) sessions: Sessions,
    faults: Faults,
    pub(crate) records: Records,
    pub(crate) stats: Arc<Stats>,
    pub(crate) world: World,
}

impl Shared {
    /// The script as it is now.
    pub(crate) fn script(&self) -> Arc<Script> {
        Arc::clone(&self.script.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The fault for this exchange; counted.
    pub(crate) fn hit(&self, at: Stage) -> Option<FaultKind> {
        let fault = self.faults.hit(at)?;
        self.stats.faults.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(fault)
    }
}

/// One life of the listener: what stops its tasks and what counts them.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Ends its tasks.
    pub token: CancellationToken,
    /// Counts its tasks.
    pub tracker: TaskTracker,
}

impl Run {
    /// Starts a task that ends with this life.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tracker.spawn(async move {
            token.run_until_cancelled(task).await;
        });
    }
}

impl Server {
    /// Binds and serves on the caller's runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(script: Script) -> io::Result<Self> {
        let listener = accept::bind(script.addr)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            faults: Faults::default(),
            sessions: Sessions::default(),
            records: Records::default(),
            stats: Arc::default(),
            world: World::default(),
            script: RwLock::new(Arc::new(script)),
        });
        shared.faults.set(shared.script().faults.clone());
        let server = Self { shared, addr, life: Mutex::new(None) };
        server.serve(Arc::new(listener));
        Ok(server)
    }

    /// Where it listens, also while it is stopped.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// URL of the HTTP+SSE transport.
    #[must_use]
    pub fn url_sse(&self) -> String {
        format!("http://{}{}", self.addr, self.shared.script().sse_path.as_deref().unwrap_or("/sse"))
    }

    /// URL of the first Streamable HTTP mount.
    #[must_use]
    pub fn url_http(&self) -> String {
        let script = self.shared.script();
        format!("http://{}{}", self.addr, script.http_paths.first().map_or("/mcp", String::as_str))
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.shared.stats.snapshot()
    }

    /// Takes the requests recorded so far (see [`Script::record`]), oldest first.
    #[must_use]
    pub fn take_recorded(&self) -> Vec<Recorded> {
        self.shared.records.take()
    }

    /// How often `add` was executed for this nonce.
    #[must_use]
    pub fn executions(&self, nonce: &str) -> u64 {
        self.shared.stats.executions(nonce)
    }

    /// What the `store` tool holds.
    #[must_use]
    pub fn stored(&self) -> Vec<String> {
        self.shared.world.stored()
    }

    /// Drops listener, connections, calls and sessions at once; returns when the port is free.
    ///
    /// # Cancel safety
    /// Dropped early, everything still stops, soon.
    pub async fn stop(&self) {
        let life = lock(&self.life).take();
        if let Some(life) = life {
            self.end(&life.run).await;
        }
    }

    /// Drops connections, calls and sessions at once, but not the port, as a supervisor that holds the socket would:
    /// nobody is refused, and who connects meanwhile is served by the next life. A stopped server stays stopped.
    ///
    /// # Cancel safety
    /// Dropped early, it is stopped.
    pub async fn replace(&self) {
        let life = lock(&self.life).take();
        if let Some(life) = life {
            self.end(&life.run).await;
            self.serve(life.listener);
        }
    }

    async fn end(&self, run: &Run) {
        run.token.cancel();
        self.clear();
        run.tracker.close();
        run.tracker.wait().await;
    }

    /// Stops if needed and serves again on the same port, with no memory of any session.
    ///
    /// # Errors
    /// When somebody else took the port meanwhile.
    pub async fn restart(&self) -> io::Result<()> {
        self.stop().await;
        self.serve(Arc::new(accept::bind(self.addr)?));
        Ok(())
    }

    /// Makes every session unknown from now on. Calls in flight on Streamable HTTP run on; streams end unless
    /// `keep_streams`.
    pub fn forget_sessions(&self, keep_streams: bool) {
        for session in self.shared.sessions.take_all() {
            if !keep_streams {
                session.detach();
            }
        }
    }

    /// Ends the stream of every session, which lives on where its transport allows it.
    pub fn close_streams(&self) {
        self.shared.sessions.all().iter().for_each(|s| s.detach());
    }

    /// Changes the script of the running server; mounts and address stay as they were started.
    pub fn tune(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.shared.script.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut script));
    }

    /// Replaces all faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.shared.faults.set(faults);
    }

    /// Replaces all faults by this one.
    pub fn set_fault(&self, fault: Fault) {
        self.set_faults(vec![fault]);
    }

    /// Behaves again.
    pub fn clear_faults(&self) {
        self.set_faults(Vec::new());
    }

    /// Sends a notification on the own stream of every session; says how many took it.
    pub fn notify(&self, method: &str, params: &Value) -> usize {
        self.send(method, params, |_| true)
    }

    /// Sends `notifications/resources/updated` to the sessions that subscribed to `uri`.
    pub fn resource_updated(&self, uri: &str) -> usize {
        let params = serde_json::json!({ "uri": uri });
        self.send("notifications/resources/updated", &params, |s| s.is_subscribed(uri))
    }

    /// Every resource some session is subscribed to.
    #[must_use]
    pub fn subscriptions(&self) -> std::collections::BTreeSet<String> {
        self.shared.sessions.all().iter().flat_map(|s| s.subscriptions()).collect()
    }

    /// Sends a notification on the own stream of one session (its id is what the `session` tool answers).
    pub fn notify_session(&self, session: &str, method: &str, params: &Value) -> bool {
        self.send(method, params, |s| s.id == session) > 0
    }

    /// The ids of all open sessions.
    #[must_use]
    pub fn session_ids(&self) -> Vec<String> {
        self.shared.sessions.all().iter().map(|s| s.id.clone()).collect()
    }

    fn send(&self, method: &str, params: &Value, to: impl Fn(&Session) -> bool) -> usize {
        let event = outgoing(None, method, &params.to_string(), Framing::Sse);
        let took =
            |s: &Arc<Session>| s.stream().is_some_and(|tx| tx.try_send(Piece::Event(event.clone())).is_ok());
        self.shared.sessions.all().iter().filter(|s| to(s) && took(s)).count()
    }

    fn serve(&self, listener: Arc<TcpListener>) {
        let run = Run::default();
        let cap = self.shared.script().connection_cap;
        run.spawn(accept::run(Arc::clone(&listener), Arc::clone(&self.shared), run.clone(), cap));
        *lock(&self.life) = Some(Life { run, listener });
    }

    fn clear(&self) {
        for session in self.shared.sessions.take_all() {
            session.closed.cancel();
            session.detach();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(life) = lock(&self.life).take() {
            life.run.token.cancel();
        }
        self.clear();
    }
}
