//! The server: the accept loop, the service of each connection, and the order of shutdown.
//!
//! `run` is not spawned: it lives in its caller's future and owns all tasks of the front. When `shutdown` completes,
//! calls that were not sent are refused, streams are asked to end, and running calls may end within the drain time. The
//! server still accepts connections meanwhile: an agent may have to answer a server request or resume its stream, and a
//! new agent gets an error with the time of a retry. After the drain time the remaining calls are answered with an error and
//! everything else is dropped.

pub(crate) mod admission;
pub(crate) mod chunked_io;
mod drain;
pub(crate) mod load_shed;
mod peer_watch;
mod timed_io;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use mcpool_wire::Backends;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    call::detached,
    config::FrontConfig,
    endpoint::Endpoint,
    guard::Guard,
    limits::{gauges::Gauges, per_peer::PerPeerLimit},
    observe::{Cause, FrontEvent, FrontObserve, Health, Transport},
    panics::catch_panic,
    server::{
        admission::{ConnectionLimit, ConnectionPermit, Rejection},
        chunked_io::ChunkedIo,
        drain::{DRAIN_STEP, drain},
        timed_io::TimeoutIo,
    },
    session::{Front, Sessionless, census::Census, registry::Agents},
    session_id::revoked_file::RevocationWriter,
    shared::{Common, DetachedCall},
    stateless::Stateless,
    stream::connection::ConnectionState,
};
/// Longest wait for the first request of a connection accepted before the drain; at most half the drain time.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// Most entries on their way to the task of detached calls.
const DETACHED_QUEUE: usize = 1_024;

/// The server that agents connect to.
pub struct Server<B: Backends> {
    front: Arc<Front<B>>,
    stateless: Arc<Stateless<B::Link>>,
    limit: ConnectionLimit,
    detached: mpsc::Receiver<DetachedCall>,
    writer: Option<RevocationWriter>,
}

/// The state a connection is served with: the front, and the state of agents without a session.
type Services<B> = (Arc<Front<B>>, Arc<Stateless<<B as Backends>::Link>>);

/// A handle that changes the configuration of a running front.
#[derive(Clone)]
pub struct FrontSettings(Arc<Common>);

impl FrontSettings {
    /// Applies a new configuration to whatever begins from now on. The number of connections stays what it was at the
    /// start.
    pub fn apply(&self, config: FrontConfig) {
        self.0.apply(config);
    }
}

/// Connections and calls that had not finished when the drain time was over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were dropped.
    pub connections: usize,
    /// Calls that were dropped.
    pub calls: usize,
}

impl<B: Backends> Server<B> {
    /// A server over `backends`, for whom `guard` admits.
    pub fn new(
        config: FrontConfig,
        backends: Arc<B>,
        observe: Arc<dyn FrontObserve>,
        health: Arc<dyn Health>,
        guard: Arc<dyn Guard>,
    ) -> Self {
        let (detached_calls, detached) = mpsc::channel(DETACHED_QUEUE);
        let limit = ConnectionLimit::new(&config.limits);
        let peers = PerPeerLimit::new(config.limits.sessions_per_peer, config.limits.count_loopback);
        let (common, writer) = Common::new(config, observe, Arc::default(), detached_calls);
        let common = Arc::new(common);
        let agents = Agents::new(Arc::clone(&common));
        let tasks = TaskTracker::new();
        let stateless = Arc::<Stateless<B::Link>>::default();
        let sessionless: Arc<dyn Sessionless> = Arc::<Stateless<B::Link>>::clone(&stateless);
        let front = Front { backends, guard, agents, sessionless, common, health, peers, tasks };
        Self { front: Arc::new(front), stateless, limit, detached, writer }
    }

    /// Gauges of this server, read on demand.
    #[must_use]
    pub fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.front.common.gauges)
    }

    /// A view of the agents and of their running calls.
    #[must_use]
    pub fn census(&self) -> Arc<dyn Census> {
        Arc::<Front<B>>::clone(&self.front)
    }

    /// A handle to change the configuration while the server runs.
    #[must_use]
    pub fn settings(&self) -> FrontSettings {
        FrontSettings(Arc::clone(&self.front.common))
    }

    /// Serves until `shutdown` completes, then drains.
    ///
    /// # Cancel safety
    /// Dropping the future stops accepting and ends every connection and agent session at once.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Drained {
        self.serve(|services, limit, stop| accept(services, limit, listener, stop), shutdown).await
    }

    /// Serves the connections that `accepting` lets in; dropping `accepting` closes its listener.
    pub(crate) async fn serve<A: Future<Output = ()>>(
        self,
        accepting: impl FnOnce(Services<B>, ConnectionLimit, CancellationToken) -> A,
        shutdown: impl Future<Output = ()>,
    ) -> Drained {
        let Self { front, stateless, limit, detached, writer } = self;
        let _kill = front.common.kill.clone().drop_guard();
        let stop = CancellationToken::new();
        front.tasks.spawn(detached::run(Arc::clone(&front.common), detached));
        if let Some(writer) = writer {
            front.tasks.spawn(writer.run(front.common.kill.clone()));
        }
        let sweeping = async {
            // A panic is reported, then the loop starts again.
            while catch_panic(&*front.common, "sweep", sweep(&front, &stateless)).await.is_none() {}
        };
        let shedding = async {
            while catch_panic(&*front.common, "relief", load_shed::run(&front, &stateless)).await.is_none() {}
        };
        let accepting = accepting((Arc::clone(&front), Arc::clone(&stateless)), limit, stop.clone()).fuse();
        let upkeep = futures::future::join(sweeping, shedding);
        let (mut accepting, mut upkeep) = (std::pin::pin!(accepting), std::pin::pin!(upkeep));
        tokio::select! {
            () = accepting.as_mut() => {}
            _ = &mut upkeep => {}
            () = shutdown => {}
        }
        tokio::select! {
            left = drain(&front, &stateless, &stop) => left,
            () = ended(accepting) => Drained::default(),
            _ = &mut upkeep => Drained::default(),
        }
    }
}

/// Goes on accepting while the drain lasts; never resolves.
async fn ended<F: Future<Output = ()>>(accepting: F) {
    accepting.await;
    std::future::pending().await
}

async fn accept<B: Backends>(
    services: Services<B>,
    mut limit: ConnectionLimit,
    listener: TcpListener,
    stop: CancellationToken,
) {
    let mut backoff = Duration::ZERO;
    loop {
        let permit = limit.acquire().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                backoff = Duration::ZERO;
                match limit.admit(permit, peer.ip()) {
                    Ok(_) if limit.is_reserved(&stream) => {
                        reject(&services.0, &limit, stream, Rejection::Descriptors);
                    }
                    Ok(permit) => {
                        // Answers are small and somebody waits for them: send them at once.
                        let _ = stream.set_nodelay(true);
                        welcome(&services, stream, peer, permit, stop.clone());
                    }
                    Err(rejection) => reject(&services.0, &limit, stream, rejection),
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                backoff = (backoff * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
                tracing::warn!(%error, ?backoff, "cannot accept connections");
                services.0.common.refused("limit");
                tokio::time::sleep(backoff).await;
            }
        }
    }
}

/// Serves an admitted connection in a task of its own.
pub(crate) fn welcome<B: Backends, T>(
    services: &Services<B>,
    stream: T,
    peer: SocketAddr,
    permit: ConnectionPermit,
    stop: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let front = &services.0;
    let serving = serve_connection(services.clone(), stream, peer, permit, stop);
    front.tasks.spawn(catch_panic(Arc::clone(&front.common), "connection", serving));
}

/// Counts a rejected connection and answers it, unless too many are being answered already.
fn reject<B: Backends>(front: &Front<B>, limit: &ConnectionLimit, stream: TcpStream, rejection: Rejection) {
    let common = &front.common;
    common.refused(rejection.kind());
    if let Some(telling) = limit.reject(stream, rejection) {
        let (transport, cause) = (Transport::Other, Cause::Gateway);
        common.emit(&FrontEvent::Responded { transport, code: rejection.code(), cause });
        front.tasks.spawn(telling);
    }
}

async fn serve_connection<B: Backends>(
    (front, stateless): Services<B>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    permit: ConnectionPermit,
    stop: CancellationToken,
) {
    let connection = Arc::new(ConnectionState::new(Arc::clone(&front.common.memory)));
    // A connection accepted during the drain ends after its first answer. A graceful shutdown would close it before its
    // first byte, without any answer.
    let mut stopping = stop.is_cancelled();
    let _counted = Connected::new(Arc::clone(&front.common), &connection, permit, stopping);
    let common = Arc::clone(&front.common);
    let stalled = Arc::clone(&common);
    let on_stall = Arc::new(move || stalled.emit(&FrontEvent::SlowAgentClosed));
    let io = TimeoutIo::new(TokioIo::new(stream), Arc::clone(&connection), common.times(), on_stall);
    let begun = Arc::clone(&connection);
    let stopped = async {
        stop.cancelled().await;
        // An agent that has just connected is about to send: a graceful shutdown would close it without an answer. In a
        // box, so that idle connections are smaller.
        let first_request = async {
            let until = Instant::now() + FIRST_REQUEST.min(common.times().drain / 2);
            while begun.is_fresh() && Instant::now() < until {
                tokio::time::sleep(DRAIN_STEP).await;
            }
        };
        Box::pin(first_request).await;
    };
    let mut stopped = std::pin::pin!(stopped);
    // Outermost: a yield of `ChunkedIo` must not look like a peer that does not read.
    let io = ChunkedIo::new(io);
    let serving = http1::Builder::new()
        .header_read_timeout(None)
        // A request that arrived whole is served whatever becomes of its connection: `connection` watches for the end
        // of the peer's side.
        .half_close(true)
        .keep_alive(!stopping)
        .max_buf_size(common.limits().header_bytes.max(8 << 10))
        .serve_connection(io, Endpoint { front, stateless, peer, connection });
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            biased;
            () = common.kill.cancelled() => return,
            done = serving.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%peer, %error, "agent connection ended");
                }
                return;
            }
            () = stopped.as_mut(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Ends idle agent sessions and idle shared links.
async fn sweep<B: Backends>(front: &Front<B>, stateless: &Stateless<B::Link>) {
    loop {
        let idle = front.common.times().agent_idle;
        let period = (idle / 10).clamp(Duration::from_millis(10), Duration::from_secs(30));
        tokio::time::sleep(period).await;
        let idle = front.common.times().agent_idle;
        front.agents.sweep(idle);
        stateless.links.sweep(front.common.millis(), idle);
    }
}

/// An open connection, counted for as long as it lives.
struct Connected {
    common: Arc<Common>,
    number: u64,
    /// Whether it was accepted during the drain.
    late: bool,
    _permit: ConnectionPermit,
}

impl Connected {
    fn new(
        common: Arc<Common>,
        connection: &Arc<ConnectionState>,
        permit: ConnectionPermit,
        late: bool,
    ) -> Self {
        Gauges::up(&common.gauges.connections, 1);
        common.late.fetch_add(usize::from(late), Ordering::Relaxed);
        let number = common.connection_number();
        common.connections.insert(number, Arc::clone(connection));
        Self { common, number, late, _permit: permit }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.common.connections.remove(&self.number);
        Gauges::down(&self.common.gauges.connections, 1);
        self.common.late.fetch_sub(usize::from(self.late), Ordering::Relaxed);
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
