//! Where and how a backend is reached.

use std::{collections::BTreeMap, ffi::OsString, fmt, io, net::IpAddr, path::PathBuf, sync::Arc};

use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use url::Url;

use super::EraChoice;

/// Where and how a backend is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Endpoint {
    /// Over the network.
    Http(HttpEndpoint),
    /// By starting a process and talking over its standard input and output. From the configuration file only:
    /// whoever may set this may run anything.
    Stdio(StdioEndpoint),
}

/// A server that is a program of this machine.
#[derive(Clone, PartialEq)]
pub struct StdioEndpoint {
    /// The program: a path, or a name looked up in `PATH`.
    pub command: OsString,
    /// Its arguments; no shell reads them.
    pub args: Vec<String>,
    /// Variables set besides the few that are inherited.
    pub env: BTreeMap<String, String>,
    /// The folder it starts in; without it the gateway's own.
    pub cwd: Option<PathBuf>,
}

/// Where an HTTP backend is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEndpoint {
    /// The URL exactly as configured (a trailing slash is kept).
    pub url: Url,
    /// Headers sent with every request (credentials).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Extra roots to trust, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Which era to speak.
    pub era: EraChoice,
    /// The DNS resolver; `None` is that of the system. Only tests set it: there is no key for it.
    pub resolver: Option<Resolver>,
}

impl HttpEndpoint {
    /// This URL, and nothing else.
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self { url, headers: Vec::new(), ca_pem: None, era: EraChoice::Auto, resolver: None }
    }
}

/// A resolver other than the system's.
#[derive(Clone)]
pub struct Resolver(pub(crate) Arc<dyn Resolve>);

/// Resolves host names. No configuration key sets one: it is for tests.
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

impl fmt::Debug for StdioEndpoint {
    // Values of variables are secrets, and arguments may hold some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioEndpoint")
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.keys())
            .field("cwd", &self.cwd)
            .finish()
    }
}
