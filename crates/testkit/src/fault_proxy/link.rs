//! One connection: both sockets, and the two pipes between them.
//!
//! The subtle thing: both sockets live to the end of this function, so that a held connection stays half-open and a
//! reset one is reset on both sides.

use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::pipe::Pipe;
use super::{End, Flow, Shared, Way};

/// Why a connection does not go on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Finish {
    /// It ends.
    Ended(End),
    /// It is held until all connections end.
    Held,
}

impl From<std::io::Error> for Finish {
    /// Who reset one side has reset the other.
    fn from(_: std::io::Error) -> Self {
        Self::Ended(End::Reset)
    }
}

/// Carries a connection to its end.
pub(super) async fn run(mut client: TcpStream, shared: &Shared) {
    let mut ends = shared.ends.subscribe();
    let (flow, twice) = {
        let weather = shared.weather.borrow();
        (weather.flow, weather.twice)
    };
    let mut server = None;
    let carried = async {
        match flow {
            Flow::Refused => Finish::Ended(End::Reset),
            Flow::Swallowed => swallow(&mut client, shared).await,
            Flow::Through | Flow::Held => carry(&mut client, &mut server, twice, shared).await,
        }
    };
    let finish = async {
        match carried.await {
            Finish::Ended(end) => end,
            Finish::Held => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        end = finish => end,
        told = ends.recv() => told.unwrap_or(End::Reset),
    };
    if end == End::Reset {
        for socket in [Some(&client), server.as_ref()].into_iter().flatten() {
            // A socket that is gone already needs no reset.
            let _ = socket.set_zero_linger();
        }
    }
}

async fn swallow(client: &mut TcpStream, shared: &Shared) -> Finish {
    let mut buffer = [0; 4096];
    loop {
        match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return Finish::Held,
            Ok(read) => drop(shared.counts.swallowed.fetch_add(read as u64, Relaxed)),
        }
    }
}

async fn carry(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    twice: bool,
    shared: &Shared,
) -> Finish {
    let Ok(connected) = TcpStream::connect(shared.to).await else {
        shared.counts.refused.fetch_add(1, Relaxed);
        return Finish::Ended(End::Reset);
    };
    let server = server.insert(connected);
    for socket in [&*client, &*server] {
        // Only latency hangs on it.
        let _ = socket.set_nodelay(true);
    }
    let mut twin = match twice {
        true => TcpStream::connect(shared.to).await.ok(),
        false => None,
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (from_twin, to_twin) = twin.as_mut().map(TcpStream::split).unzip();
    let there = Pipe::new(shared, Way::ToServer, from_client, to_server, to_twin);
    let back = Pipe::new(shared, Way::ToClient, from_server, to_client, None);
    let carried = async {
        match tokio::try_join!(there.run(), back.run()) {
            Ok(((), ())) => Finish::Ended(End::Close),
            Err(finish) => finish,
        }
    };
    tokio::select! {
        finish = carried => finish,
        finish = unread(from_twin) => finish,
    }
}

/// Reads what the second connection is answered, so that its server is never held up; its end ends nothing.
async fn unread(from: Option<ReadHalf<'_>>) -> Finish {
    if let Some(mut from) = from {
        let mut buffer = [0; 4096];
        while from.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    }
    std::future::pending().await
}

/// Writes to the server and, where there is one, to the second connection.
pub(super) async fn write_both(
    to: &mut WriteHalf<'_>,
    twin: &mut Option<WriteHalf<'_>>,
    bytes: &[u8],
) -> std::io::Result<()> {
    if let Some(second) = twin
        && second.write_all(bytes).await.is_err()
    {
        // The second connection is a copy that nobody waits for.
        *twin = None;
    }
    to.write_all(bytes).await
}
