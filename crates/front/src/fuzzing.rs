//! The server over connections in memory, for the fuzz target in `tests/fuzz`: everything but the listener is the
//! product's.

use std::{future::Future, net::SocketAddr};

use mcpool_wire::Backends;
use tokio::{io::DuplexStream, sync::mpsc};

use crate::server::{Drained, Server, welcome};

/// As [`Server::run`], with connections that come through a channel, as if from this machine.
pub async fn run<B: Backends>(
    server: Server<B>,
    mut connections: mpsc::Receiver<DuplexStream>,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let accepting = async |front, mut door: crate::door::Door, stop: tokio_util::sync::CancellationToken| {
        while let Some(connection) = connections.recv().await {
            let place = door.place().await;
            if let Ok(pass) = door.admit(place, peer.ip()) {
                welcome(&front, connection, peer, pass, stop.clone());
            }
        }
        std::future::pending().await
    };
    server.serve(accepting, shutdown).await
}
