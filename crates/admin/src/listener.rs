//! Connections of the admin listener: limited in total and per address, with the timeouts of the agent listener, so
//! that silent, slow or stuck peers cannot block operators and probes.
//!
//! When all places are taken, the longest-idle connection is closed; a new one is rejected only if all are busy.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::rt::{Read, ReadBufCursor, Write};
use mcpool_front::{FrontConfig, FrontTimes};
use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

/// Maximum number of connections; operators and scrapers are few.
const MOST: usize = 256;

/// All open connections.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    all: HashMap<u64, Arc<Connection>>,
}

/// The state of one connection.
pub(super) struct Connection {
    peer: IpAddr,
    begun: Instant,
    /// State in the two highest bits, and its start in milliseconds after `begun`.
    state: AtomicU64,
    /// Start of a blocked write, in milliseconds after `begun` plus 1; 0 = not blocked.
    stuck: AtomicU64,
    /// Closes the connection.
    pub(super) end: CancellationToken,
}

/// A connection's place, released on drop.
pub(super) struct Place {
    pub(super) connection: Arc<Connection>,
    number: u64,
    of: Arc<Connections>,
}

// The two highest bits of the state.
const WAITS: u64 = 0;
const READS: u64 = 1 << 62;
const SERVES: u64 = 2 << 62;
const WHAT: u64 = 3 << 62;

/// The connection limit: 1/16 of the descriptors, 8 to 256, so that agents and backends have enough.
#[must_use]
pub fn most(front: &FrontConfig) -> usize {
    (front.limits.descriptors / 16).clamp(8, MOST)
}

impl Connections {
    /// The number of open connections.
    pub(super) fn count(&self) -> usize {
        self.lock().all.len()
    }

    /// Takes a place for a connection of this peer, closing the longest-idle one if all are taken. `None` if all are
    /// busy.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, front: &FrontConfig) -> Option<Place> {
        let peer = peer.to_canonical();
        let mut open = self.lock();
        // Loopback is one address for many programs, so it has no per-peer limit.
        let of_peer = open.all.values().filter(|one| one.peer == peer).count();
        if !peer.is_loopback() && of_peer >= front.limits.connections_per_peer {
            open.evict(|one| one.peer == peer)?;
        }
        if open.all.len() >= most(front) {
            open.evict(|_| true)?;
        }
        open.last += 1;
        let (number, begun) = (open.last, Instant::now());
        let (state, stuck, end) = (AtomicU64::new(READS), AtomicU64::new(0), CancellationToken::new());
        let connection = Arc::new(Connection { peer, begun, state, stuck, end });
        open.all.insert(number, connection.clone());
        Some(Place { connection, number, of: self.clone() })
    }

    /// Closes the longest-idle connection to free a descriptor.
    pub(super) fn evict(&self) {
        self.lock().evict(|_| true);
    }

    // The map is consistent between any two statements, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn evict(&mut self, may: impl Fn(&Connection) -> bool) -> Option<()> {
        let idle = self.all.iter().filter(|(_, one)| may(one));
        let idle = idle.filter_map(|(number, one)| Some((one.idle_since()?, *number)));
        let (_, number) = idle.min()?;
        let gone = self.all.remove(&number)?;
        gone.end.cancel();
        Some(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().all.remove(&self.number);
    }
}

impl Connection {
    /// Marks the connection as serving until the guard is dropped with the response.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.become_(SERVES);
        Serving(self.clone())
    }

    /// True if the current state has exceeded its timeout.
    pub(super) fn is_late(&self, times: &FrontTimes) -> bool {
        let (what, since) = self.now();
        let late = |limit: Duration| self.begun.elapsed() > since + limit;
        match what {
            READS => late(times.header),
            WAITS => late(times.keep_alive),
            _ => self.stuck().is_some_and(|since| self.begun.elapsed() > since + times.write_stall),
        }
    }

    /// The interval between timeout checks.
    pub(super) fn look(times: &FrontTimes) -> Duration {
        let shortest = times.header.min(times.keep_alive).min(times.write_stall);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Start of idleness; `None` while a response is being read.
    fn idle_since(&self) -> Option<Instant> {
        match self.now() {
            (SERVES, _) => self.stuck().map(|since| self.begun + since),
            (_, since) => Some(self.begun + since),
        }
    }

    fn now(&self) -> (u64, Duration) {
        let state = self.state.load(Ordering::Acquire);
        (state & WHAT, Duration::from_millis(state & !WHAT))
    }

    fn stuck(&self) -> Option<Duration> {
        self.stuck.load(Ordering::Acquire).checked_sub(1).map(Duration::from_millis)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX) & !WHAT
    }

    fn become_(&self, what: u64) {
        self.state.store(what | self.millis(), Ordering::Release);
    }

    /// Handles received bytes: they begin a request.
    fn hears(&self) {
        if self.now().0 == WAITS {
            self.become_(READS);
        }
    }

    fn writes(&self, done: bool) {
        match (done, self.stuck.load(Ordering::Acquire)) {
            (true, 0) | (false, 1..) => {}
            (true, _) => self.stuck.store(0, Ordering::Release),
            (false, 0) => self.stuck.store(self.millis() + 1, Ordering::Release),
        }
    }
}

/// Guard of a request in progress.
pub(super) struct Serving(Arc<Connection>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.become_(WAITS);
    }
}

/// Response body that holds its [`Serving`] guard until it is read.
pub(super) struct Held {
    body: Body,
    _serving: Serving,
}

impl Held {
    pub(super) fn new(body: Body, serving: Serving) -> Self {
        Self { body, _serving: serving }
    }

    pub(super) fn boxed(self) -> UnsyncBoxBody<Bytes, axum::Error> {
        UnsyncBoxBody::new(self)
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// IO that records the state of its connection.
pub(super) struct Noted<T> {
    pub(super) io: T,
    pub(super) connection: Arc<Connection>,
}

impl<T: Read + Unpin> Read for Noted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.connection.hears();
        }
        polled
    }
}

impl<T: Write + Unpin> Write for Noted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.connection.writes(polled.is_ready());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Answers 503 on a rejected connection without waiting for the write.
pub(super) fn turn_away(stream: &TcpStream, peer: SocketAddr) {
    tracing::debug!(%peer, "no place for another connection to the admin listener");
    let _ = stream.try_write(
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 2\r\nconnection: close\r\n\r\n",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_idle_longest_gives_way_and_who_is_served_does_not() {
        let (open, front) = (Arc::<Connections>::default(), FrontConfig::default());
        let busy = open.enter(ip(1), &front).unwrap();
        let _serving = busy.connection.serve();
        let mut places = Vec::new();
        for n in 1..MOST {
            tokio::time::advance(Duration::from_millis(1)).await;
            places.push(open.enter(ip(u8::try_from(n % 200).unwrap() + 2), &front).unwrap());
        }
        // Its request makes it the most recently used one.
        drop(places[0].connection.serve());
        assert!(open.enter(ip(250), &front).is_some());
        let ended: Vec<_> = (0..places.len()).filter(|n| places[*n].connection.end.is_cancelled()).collect();
        assert_eq!(ended, [1]);
        assert!(!busy.connection.end.is_cancelled());
        drop(places);
        assert_eq!(open.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_share_and_gives_way_to_itself() {
        let (open, front) = (Arc::<Connections>::default(), FrontConfig::default());
        let share = front.limits.connections_per_peer;
        let other = open.enter(ip(1), &front).unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        let all: Vec<_> = (0..=share).map(|_| open.enter(ip(2), &front).unwrap()).collect();
        assert!(all[0].connection.end.is_cancelled() ^ all[1].connection.end.is_cancelled());
        assert!(!other.connection.end.is_cancelled());
        let serving: Vec<_> = all.iter().map(|place| place.connection.serve()).collect();
        assert!(open.enter(ip(2), &front).is_none(), "all of them are served");
        drop(serving);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_half_a_request_and_a_peer_that_does_not_read_end() {
        let (open, front) = (Arc::<Connections>::default(), FrontConfig::default());
        let times = front.times;
        let place = open.enter(ip(1), &front).unwrap();
        let connection = &place.connection;
        tokio::time::advance(times.header + Duration::from_secs(1)).await;
        assert!(connection.is_late(&times), "it said nothing, or half a request");
        let serving = connection.serve();
        tokio::time::advance(times.write_stall * 10).await;
        assert!(!connection.is_late(&times), "a verb may take its time");
        connection.writes(false);
        tokio::time::advance(times.write_stall + Duration::from_secs(1)).await;
        assert!(connection.is_late(&times));
        connection.writes(true);
        drop(serving);
        tokio::time::advance(times.keep_alive - Duration::from_secs(1)).await;
        assert!(!connection.is_late(&times));
        connection.hears();
        tokio::time::advance(times.header + Duration::from_secs(1)).await;
        assert!(connection.is_late(&times), "the next request has the time of a header");
    }
}
