//! A bad network as a library: a TCP proxy on loopback that forwards, and does wrong what it is told to.
//!
//! Two kinds of wrong. [`Weather`] is how all connections are treated for as long as it lasts: late, slow, held,
//! swallowed, refused. A [`Strike`] happens once, at one byte: the connection that carries it is cut, held for ever, or
//! has bytes twice. The subtle thing: nothing here is random and nothing knows HTTP, so a test that counts bytes can
//! break an answer at each of them in turn.

mod link;
mod pipe;
mod strikes;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::strikes::Strikes;

/// Connections carried at once; more wait in the accept queue.
const CONNECTIONS: usize = 4096;
/// Ends told to all connections that a busy connection may be behind; it needs only one of them.
const ENDS: usize = 4;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to the server behind the proxy.
    ToServer,
    /// Back.
    ToClient,
}

/// How a connection ends, on both of its sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With FIN.
    Close,
    /// With RST; what the peer has not read is lost.
    Reset,
}

/// What becomes of connections and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// They flow.
    #[default]
    Through,
    /// Nothing is read and nothing forwarded, ends included: half-open. When this is over, all of it flows on.
    Held,
    /// Bytes are read and lost, ends included, and new connections lead nowhere: a black hole. Who has lost a byte
    /// is never heard again.
    Swallowed,
    /// New connections are reset at once; the others flow.
    Refused,
}

/// How every connection is treated now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weather {
    /// What becomes of bytes.
    pub flow: Flow,
    /// How much later each byte comes out, in both directions. Default zero.
    pub delay: Duration,
    /// Most bytes per second of one direction of one connection. Default unlimited.
    pub bytes_per_second: Option<u64>,
    /// New connections reach the server twice: a second one carries the same bytes there, and nobody reads what it
    /// answers. Default false.
    pub twice: bool,
}

/// What happens at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shot {
    /// The connection ends.
    Cut(End),
    /// The connection is never heard again, and not closed: half-open.
    Hold,
    /// This many of the next bytes that are there come twice.
    Double(u64),
}

/// One thing that goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// The direction whose bytes are counted, over all connections, from the moment this was asked for.
    pub way: Way,
    /// So many bytes are forwarded before; zero strikes the very next one.
    pub after: u64,
    /// What happens.
    pub shot: Shot,
}

/// What the proxy did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections there are now.
    pub open: u64,
    /// Connections that were reset because the weather or the server refused them.
    pub refused: u64,
    /// Bytes forwarded to the server.
    pub to_server: u64,
    /// Bytes forwarded to clients.
    pub to_client: u64,
    /// Bytes read and thrown away.
    pub swallowed: u64,
    /// Bytes sent a second time.
    pub doubled: u64,
    /// Strikes that happened.
    pub struck: u64,
}

/// A running proxy. Dropping it ends every connection.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    addr: SocketAddr,
    token: CancellationToken,
}

/// What all connections see.
#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    weather: watch::Sender<Weather>,
    ends: broadcast::Sender<End>,
    strikes: Strikes,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    open: AtomicU64,
    refused: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    swallowed: AtomicU64,
    doubled: AtomicU64,
    struck: AtomicU64,
}

impl Counts {
    fn forwarded(&self, way: Way) -> &AtomicU64 {
        match way {
            Way::ToServer => &self.to_server,
            Way::ToClient => &self.to_client,
        }
    }
}

impl FaultProxy {
    /// Listens on a free loopback port and forwards to this address, in fine weather, on the caller's runtime.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to,
            weather: watch::channel(Weather::default()).0,
            ends: broadcast::channel(ENDS).0,
            strikes: Strikes::default(),
            counts: Counts::default(),
        });
        let token = CancellationToken::new();
        let serving = serve(listener, Arc::clone(&shared), token.clone());
        // Ends with the token, and with it every connection.
        drop(tokio::spawn(token.clone().run_until_cancelled_owned(serving)));
        Ok(Self { shared, addr, token })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of a path of the server, through here.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Treats all connections like this from now on.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Fine weather, and no strike to come.
    pub fn clear(&self) {
        self.shared.strikes.clear();
        self.set(Weather::default());
    }

    /// Ends every connection there is.
    pub fn end_all(&self, end: End) {
        // Nobody listens when there is no connection.
        let _ = self.shared.ends.send(end);
    }

    /// Lets something go wrong once; false when too many such are waiting already.
    pub fn strike(&self, strike: Strike) -> bool {
        self.shared.strikes.add(strike)
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> ProxyStats {
        let counts = &self.shared.counts;
        ProxyStats {
            accepted: counts.accepted.load(Relaxed),
            open: counts.open.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            to_server: counts.to_server.load(Relaxed),
            to_client: counts.to_client.load(Relaxed),
            swallowed: counts.swallowed.load(Relaxed),
            doubled: counts.doubled.load(Relaxed),
            struck: counts.struck.load(Relaxed),
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, token: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let tracker = TaskTracker::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        // A failed accept concerns one connection only, or the limit of descriptors, which passes.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        shared.counts.accepted.fetch_add(1, Relaxed);
        let (shared, token) = (Arc::clone(&shared), token.clone());
        tracker.spawn(async move {
            let _open = Open::of(&shared.counts);
            token.run_until_cancelled(link::run(client, &shared)).await;
            drop(permit);
        });
    }
}

/// A connection that counts as open.
struct Open<'a>(&'a Counts);

impl<'a> Open<'a> {
    fn of(counts: &'a Counts) -> Self {
        counts.open.fetch_add(1, Relaxed);
        Self(counts)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
