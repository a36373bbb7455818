//! How the name in a backend's URL becomes addresses: by the system's resolver, or by one that is handed in.
//!
//! The client of `http.rs` asks here for every connection it opens, and nothing is remembered: a backend that moved is
//! found by the next connection.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures::{FutureExt as _, future::BoxFuture};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// Finds the addresses of a host. There is no configuration for it: a test hands in one that does as it says.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of this host, in the order in which they are tried.
    ///
    /// # Errors
    /// When there is none; the text goes into logs and to agents.
    ///
    /// # Cancel safety
    /// Dropped when the connection took too long.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// A resolver other than the system's.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Resolve>);

/// The names of one backend, under its limit for a connection.
#[derive(Clone)]
pub(super) struct Names {
    resolver: Option<Resolver>,
    limit: Duration,
}

type Addresses = vec::IntoIter<SocketAddr>;

impl Resolver {
    /// Asks this one.
    pub fn new(resolve: Arc<dyn Resolve>) -> Self {
        Self(resolve)
    }
}

impl PartialEq for Resolver {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// What every failure to resolve a name says, so that it can be told from a server that is down.
pub const UNRESOLVED: &str = "does not resolve";

impl Names {
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

impl Service<Name> for Names {
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
