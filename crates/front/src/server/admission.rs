//! Admission of connections: at most so many, at most so many of one peer, and a connection that may not stay is
//! answered before it is closed.

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
    limits::per_peer::{PeerSeat, Peers},
};

/// The connections there may be.
pub(crate) struct Door {
    places: Arc<Semaphore>,
    /// Too few descriptors are the reason for so few places: who finds none does not wait, but is told.
    scarce: bool,
    /// A descriptor with this number or a higher one is from the reserve: the system gives out the lowest that is free.
    reserve: usize,
    /// Since when there has been none.
    full_since: Option<Instant>,
    peers: Arc<Peers>,
    /// Connections that are being told to go away.
    porch: Arc<Semaphore>,
}

/// A connection's right to be.
pub(crate) struct Pass {
    _place: OwnedSemaphorePermit,
    _seat: PeerSeat,
}

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// Its peer has too many.
    Peer,
    /// There are too few descriptors.
    Descriptors,
}

impl Door {
    pub(crate) fn new(limits: &FrontLimits) -> Self {
        let places = limits.agent_connections();
        Self {
            places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))),
            scarce: places < limits.connections,
            reserve: match limits.reserved_descriptors {
                0 => usize::MAX,
                reserved => limits.descriptors.saturating_sub(reserved),
            },
            full_since: None,
            peers: Peers::new(limits.connections_per_peer, limits.count_loopback),
            porch: Arc::new(Semaphore::new((limits.descriptors / 16).clamp(1, PORCH))),
        }
    }

    /// Waits until a connection may be accepted. Above the configured limit they wait in the listen queue instead of in
    /// our memory. Where descriptors are scarce a short burst waits there, too; then whoever comes is told.
    pub(crate) async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).acquire_owned();
        if !self.scarce {
            return place.await.ok();
        }
        let until = *self.full_since.get_or_insert_with(Instant::now) + BURST;
        let place = tokio::time::timeout_at(until, place).await.ok()?.ok();
        self.full_since = None;
        place
    }

    /// Whether this connection may stay.
    pub(crate) fn admit(&mut self, place: Option<OwnedSemaphorePermit>, peer: IpAddr) -> Result<Pass, Away> {
        // One may have become free while nobody came.
        let place = place.or_else(|| Arc::clone(&self.places).try_acquire_owned().ok());
        let place = place.ok_or(Away::Descriptors)?;
        self.full_since = None;
        let seat = self.peers.enter(peer).ok_or(Away::Peer)?;
        Ok(Pass { _place: place, _seat: seat })
    }

    /// Whether this connection has a descriptor of the reserve: backends took what agents leave them, and all of it.
    pub(crate) fn is_reserved(&self, stream: &TcpStream) -> bool {
        usize::try_from(stream.as_raw_fd()).is_ok_and(|number| number >= self.reserve)
    }

    /// What tells a connection to go away; none when there are too many to tell.
    pub(crate) fn tell(&self, stream: TcpStream, away: Away) -> Option<impl Future<Output = ()> + use<>> {
        let room = Arc::clone(&self.porch).try_acquire_owned().ok()?;
        Some(async move {
            let _room = room;
            // A peer that does not listen is not waited for.
            let _ = tokio::time::timeout(LINGER, turn_away(stream, away)).await;
        })
    }
}

impl Away {
    /// What it is counted as.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Peer => "peer_connections",
            Self::Descriptors => "descriptors",
        }
    }

    /// The status it is told.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Peer => 429,
            Self::Descriptors => 503,
        }
    }

    fn answer(self) -> String {
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

/// Answers whatever is asked, and reads on a little: a peer that is cut off while it writes may never see the answer.
async fn turn_away(mut stream: TcpStream, away: Away) {
    let told = async {
        stream.write_all(away.answer().as_bytes()).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1_024];
        while stream.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    // It is gone either way.
    let _ = told.await;
}

/// A burst may last this long.
const BURST: Duration = Duration::from_secs(1);
/// Connections that are told to go away at a time.
const PORCH: usize = 64;
/// How long each of them takes at most.
const LINGER: Duration = Duration::from_secs(1);
/// When to come again.
const RETRY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_leave_a_quarter_to_the_backends() {
        let limits = FrontLimits { descriptors: 100, connections: 90, ..FrontLimits::default() };
        let door = Door::new(&limits);
        assert_eq!((door.places.available_permits(), door.scarce), (75, true));
        let door = Door::new(&FrontLimits { descriptors: 200, ..limits });
        assert_eq!((door.places.available_permits(), door.scarce), (90, false));
    }
}
