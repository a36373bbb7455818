//! How the name in a backend's URL becomes addresses: by the system's resolver, or by one that is handed in.
//!
//! The client of `http.rs` asks here for every connection it opens, and nothing is remembered: a backend that moved is
//! found by the next connection.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures::{FutureExt as _, future::BoxFuture};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

use crate::config::Resolver;

/// The names of one backend, under its limit for a connection.
#[derive(Clone)]
pub(super) struct DnsResolver {
    resolver: Option<Resolver>,
    limit: Duration,
}

type Addresses = vec::IntoIter<SocketAddr>;

/// What every failure to resolve a name says, so that it can be told from a server that is down.
pub const UNRESOLVED: &str = "does not resolve";

impl DnsResolver {
    pub(super) fn new(resolver: Option<Resolver>, limit: Duration) -> Self {
        Self { resolver, limit }
    }

    async fn find(self, host: String) -> io::Result<Addresses> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("{host:?} {UNRESOLVED} in time"));
        let found = tokio::time::timeout(self.limit, self.ask(&host)).await.map_err(|_| late())?;
        found.map_err(|why| io::Error::new(why.kind(), format!("{host:?} {UNRESOLVED}: {why}")))
    }

    async fn ask(&self, host: &str) -> io::Result<Addresses> {
        let found: Vec<SocketAddr> = match &self.resolver {
            // The client puts the port of the URL in.
            Some(Resolver(resolver)) => {
                resolver.resolve(host).await?.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect()
            }
            None => {
                let name: Name = host.parse().map_err(io::Error::other)?;
                GaiResolver::new().call(name).await?.collect()
            }
        };
        Ok(found.into_iter())
    }
}

impl Service<Name> for DnsResolver {
    type Response = Addresses;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Addresses>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        self.clone().find(name.as_str().to_owned()).boxed()
    }
}
