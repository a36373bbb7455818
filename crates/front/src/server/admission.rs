//! Admission of connections: a limit on all of them and one per peer. A connection that is rejected gets an HTTP answer
//! before it is closed.

use std::{net::IpAddr, os::fd::AsRawFd as _, sync::Arc, time::Duration};

use mcpool_wire::{CallError, ErrorKind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    config::FrontLimits,
    limits::per_peer::{PeerPermit, PerPeerLimit},
};

/// Limits the number of open connections, in all and per peer.
pub(crate) struct ConnectionLimit {
    permits: Arc<Semaphore>,
    /// True if the file-descriptor limit caps connections, not `limits.connections`. Excess connections then get a 503
    /// instead of waiting in the listen queue.
    scarce_descriptors: bool,
    /// The first descriptor number of the reserve. The system hands out the lowest free number, so a connection with this
    /// number or a higher one uses the reserve.
    reserve: usize,
    /// The time since which no permit has been free.
    full_since: Option<Instant>,
    peers: Arc<PerPeerLimit>,
    /// Caps the connections that are being rejected at a time.
    rejecting: Arc<Semaphore>,
}

/// One open connection; released on drop.
pub(crate) struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    _peer: PeerPermit,
}

/// The reason a connection is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Its peer has too many connections.
    Peer,
    /// The process has too few file descriptors.
    Descriptors,
}

impl ConnectionLimit {
    pub(crate) fn new(limits: &FrontLimits) -> Self {
        let permits = limits.agent_connections();
        Self {
            permits: Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS))),
            scarce_descriptors: permits < limits.connections,
            reserve: match limits.reserved_descriptors {
                0 => usize::MAX,
                reserved => limits.descriptors.saturating_sub(reserved),
            },
            full_since: None,
            peers: PerPeerLimit::new(limits.connections_per_peer, limits.count_loopback),
            rejecting: Arc::new(Semaphore::new((limits.descriptors / 16).clamp(1, MAX_REJECTING))),
        }
    }

    /// Waits for a permit to accept a connection. Meanwhile connections wait in the listen queue, not in our memory.
    /// Where descriptors are scarce the wait is at most [`BURST`]; `None` then lets [`Self::admit`] reject the connection.
    pub(crate) async fn acquire(&mut self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        if !self.scarce_descriptors {
            return permit.await.ok();
        }
        let until = *self.full_since.get_or_insert_with(Instant::now) + BURST;
        let permit = tokio::time::timeout_at(until, permit).await.ok()?.ok();
        self.full_since = None;
        permit
    }

    /// Admits a connection, or says why it is rejected.
    pub(crate) fn admit(
        &mut self,
        permit: Option<OwnedSemaphorePermit>,
        peer: IpAddr,
    ) -> Result<ConnectionPermit, Rejection> {
        // A permit may have become free while no connection came.
        let permit = permit.or_else(|| Arc::clone(&self.permits).try_acquire_owned().ok());
        let permit = permit.ok_or(Rejection::Descriptors)?;
        self.full_since = None;
        let peer = self.peers.acquire(peer).ok_or(Rejection::Peer)?;
        Ok(ConnectionPermit { _permit: permit, _peer: peer })
    }

    /// Whether this connection uses a descriptor of the reserve: connections to backends have used up all others.
    pub(crate) fn is_reserved(&self, stream: &TcpStream) -> bool {
        usize::try_from(stream.as_raw_fd()).is_ok_and(|number| number >= self.reserve)
    }

    /// The task that answers a rejected connection. `None` when too many are being answered already.
    pub(crate) fn reject(
        &self,
        stream: TcpStream,
        rejection: Rejection,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let permit = Arc::clone(&self.rejecting).try_acquire_owned().ok()?;
        Some(async move {
            let _permit = permit;
            // A peer that does not read is cut off after a second.
            let _ = tokio::time::timeout(LINGER, reject(stream, rejection)).await;
        })
    }
}

impl Rejection {
    /// The label in metrics.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Peer => "peer_connections",
            Self::Descriptors => "descriptors",
        }
    }

    /// The HTTP status of the answer.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Peer => 429,
            Self::Descriptors => 503,
        }
    }

    fn to_response(self) -> String {
        let (reason, message) = match self {
            Self::Peer => ("Too Many Requests", "this address has too many connections to the gateway"),
            Self::Descriptors => {
                ("Service Unavailable", "the gateway has no descriptor for another connection")
            }
        };
        let error = CallError::not_sent(ErrorKind::Overloaded, message).retry_after(RETRY);
        let body = String::from_utf8_lossy(&error.to_response(None, "none")).into_owned();
        format!(
            "HTTP/1.1 {} {reason}\r\nretry-after: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            self.code(),
            RETRY.as_secs(),
            body.len()
        )
    }
}

/// Answers without reading the request, then reads on for a moment: a peer that is cut off while it writes may never
/// see the answer.
async fn reject(mut stream: TcpStream, rejection: Rejection) {
    let answered = async {
        stream.write_all(rejection.to_response().as_bytes()).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1_024];
        while stream.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The connection is closed either way.
    let _ = answered.await;
}

/// Longest wait for a permit where descriptors are scarce.
const BURST: Duration = Duration::from_secs(1);
/// Most connections that are rejected at a time.
const MAX_REJECTING: usize = 64;
/// Longest time to reject one connection.
const LINGER: Duration = Duration::from_secs(1);
/// The `retry-after` of a rejected connection.
const RETRY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_leave_a_quarter_to_the_backends() {
        let limits = FrontLimits { descriptors: 100, connections: 90, ..FrontLimits::default() };
        let limit = ConnectionLimit::new(&limits);
        assert_eq!((limit.permits.available_permits(), limit.scarce_descriptors), (75, true));
        let limit = ConnectionLimit::new(&FrontLimits { descriptors: 200, ..limits });
        assert_eq!((limit.permits.available_permits(), limit.scarce_descriptors), (90, false));
    }
}
