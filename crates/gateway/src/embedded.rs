//! An embedded gateway on a port of its own, for `doctor` and `rehearse`.

use std::{net::SocketAddr, sync::Arc};

use mcpool_front::{AllowAll, FrontConfig, FrontEvent, FrontObserve, Server};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::observe::{Phase, Status};
use mcpool_router::gateway::Gateway;

/// A running gateway; ends at once on drop.
pub(crate) struct EmbeddedGateway {
    gateway: Arc<Gateway>,
    addr: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl EmbeddedGateway {
    /// Serves these backends on a free loopback port.
    ///
    /// # Errors
    /// One sentence if there is no port.
    pub(crate) async fn serve(gateway: Gateway) -> Result<Self, String> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.map_err(|why| format!("no free port: {why}"))?;
        let addr = listener.local_addr().map_err(|why| why.to_string())?;
        let gateway = Arc::new(gateway);
        let status = Arc::new(Status::new(gateway.clone()));
        status.enter(Phase::Serving);
        let router = Arc::new(gateway.router());
        let server =
            Server::new(FrontConfig::default(), router, Arc::new(NullObserver), status, Arc::new(AllowAll));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            server.run(listener, stopped).await;
        });
        Ok(Self { gateway, addr, stop, serving })
    }

    /// The URL of the only backend.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }

    /// The gateway.
    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Shuts its sessions down gracefully.
    pub(crate) async fn end(self, within: std::time::Duration) {
        self.stop.cancel();
        self.gateway.shutdown(within).await;
    }
}

impl Drop for EmbeddedGateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Observer that ignores all events.
struct NullObserver;

impl FrontObserve for NullObserver {
    fn on(&self, _: &FrontEvent<'_>) {}
}
