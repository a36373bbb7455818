//! For the fuzz targets in `tests/fuzz`: the server over connections in memory, where everything but the listener is the
//! product's, and the sealing of ids.

use std::{future::Future, net::SocketAddr};

use mcpool_wire::{Backends, Identity, Slot, Target};
use tokio::{io::DuplexStream, sync::mpsc};

use crate::{
    forwarded_headers::Carried,
    observe::Transport,
    server::{Drained, Server, welcome},
    session_id::{
        AgentSessionId,
        seal::{Binding, Claims, SessionKeys},
    },
};

/// An id for a session of this backend.
#[must_use]
pub fn seal(keys: &SessionKeys, owner: u16, issued: u64, backend: &str) -> Option<AgentSessionId> {
    let claims = Claims { issued, revision: None, own: false, interactive: false, carried: 0 };
    with(backend, |binding| keys.seal(Slot::read(owner), &claims, binding))
}

/// Whether an id is one of this backend.
#[must_use]
pub fn opens(keys: &SessionKeys, id: AgentSessionId, backend: &str) -> bool {
    with(backend, |binding| keys.open(id, binding).is_some())
}

fn with<T>(backend: &str, then: impl FnOnce(&Binding<'_>) -> T) -> T {
    let target = Target::named(backend);
    let carried = Carried::default();
    let (transport, identity) = (Transport::Http, Identity::anonymous());
    then(&Binding { transport, identity: &identity, target: &target, carried: &carried })
}

/// As [`Server::run`], with connections that come through a channel, as if from this machine.
pub async fn run<B: Backends>(
    server: Server<B>,
    mut connections: mpsc::Receiver<DuplexStream>,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let accepting = async |services,
                           mut limit: crate::server::admission::ConnectionLimit,
                           stop: tokio_util::sync::CancellationToken| {
        while let Some(connection) = connections.recv().await {
            let permit = limit.acquire().await;
            if let Ok(permit) = limit.admit(permit, peer.ip()) {
                welcome(&services, connection, peer, permit, stop.clone());
            }
        }
        std::future::pending().await
    };
    server.serve(accepting, shutdown).await
}
