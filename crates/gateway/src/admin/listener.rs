//! Connections of the admin listener: bounded in all and per address, with the times of the agent listener, so that
//! whoever says nothing, half a request, or does not read takes nothing from operators and probes.
//!
//! Operators must get in whatever others do: where there is no place, the connection that was idle longest gives way, and
//! only where all are busy is the newcomer turned away.

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

/// Operators and scrapers are few.
const MOST: usize = 256;

/// The connections there are.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    all: HashMap<u64, Arc<Connection>>,
}

/// What is known of one connection.
pub(super) struct Connection {
    peer: IpAddr,
    begun: Instant,
    /// What it does, and since which millisecond after `begun`.
    state: AtomicU64,
    /// Milliseconds after `begun`, and one, at which a write had to wait; 0 while none does.
    stuck: AtomicU64,
    /// Ends it.
    pub(super) end: CancellationToken,
}

/// A connection's place; dropping it gives the place back.
pub(super) struct Place {
    pub(super) connection: Arc<Connection>,
    number: u64,
    of: Arc<Connections>,
}

// The two highest bits of the state say what a connection does.
const WAITS: u64 = 0;
const READS: u64 = 1 << 62;
const SERVES: u64 = 2 << 62;
const WHAT: u64 = 3 << 62;

/// Most connections: few where descriptors are, so that they are not taken from agents and backends.
pub(super) fn most(front: &FrontConfig) -> usize {
    (front.limits.descriptors / 16).clamp(8, MOST)
}

impl Connections {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().all.len()
    }

    /// A place for a connection of this peer. Where there is none the one that was idle longest ends for it.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, front: &FrontConfig) -> Option<Place> {
        let peer = peer.to_canonical();
        let mut open = self.lock();
        // This machine is one address however many programs of it look.
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

    /// Ends the one that was idle longest, for want of a descriptor.
    pub(super) fn evict(&self) {
        self.lock().evict(|_| true);
    }

    // Consistent between any two statements.
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
    /// A request is served until the guard is dropped, which goes with its response.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.become_(SERVES);
        Serving(self.clone())
    }

    /// Whether it has taken longer than it may for what it does.
    pub(super) fn is_late(&self, times: &FrontTimes) -> bool {
        let (what, since) = self.now();
        let late = |limit: Duration| self.begun.elapsed() > since + limit;
        match what {
            READS => late(times.header),
            WAITS => late(times.keep_alive),
            _ => self.stuck().is_some_and(|since| self.begun.elapsed() > since + times.write_stall),
        }
    }

    /// How long to wait before the next look at whether it is late.
    pub(super) fn look(times: &FrontTimes) -> Duration {
        let shortest = times.header.min(times.keep_alive).min(times.write_stall);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Since when nobody has been served on it; nothing while somebody is who reads.
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

    /// The first bytes of a request.
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

/// A request is being served.
pub(super) struct Serving(Arc<Connection>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.become_(WAITS);
    }
}

/// A body that holds its request for as long as it is read.
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

/// IO that notes what its connection does.
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

/// A word for a connection there is no place for; who does not take it at once is not waited for.
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
        // Its request makes it the one that was idle for the shortest time.
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
