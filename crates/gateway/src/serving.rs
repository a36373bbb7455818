//! The running gateway: listeners, backends, the agents' server and the admin listener, from start to drain.

use std::{
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use mcpool_front::{AllowAll, Server};
use mcpool_router::{gateway::Gateway, route::Router};
use mcpool_upstream::descriptors;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    config::{Config, Overrides},
    observe::{Events, Metrics, Observer, Phase, Status},
    reload::{Parts, ReloadHook, Reloader},
    startup,
    state_dir::State,
};

/// The listeners, bound before anything else starts, to detect a used port early.
pub struct Listeners {
    agents: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    /// Binds both.
    ///
    /// # Errors
    /// The reason, and what to change.
    pub fn bind(config: &Config) -> Result<Self, String> {
        Ok(Self {
            agents: listen(config.listen, "--listen", "MCPOOL_LISTEN", "listen")?,
            admin: listen(config.admin_listen, "--admin-listen", "MCPOOL_ADMIN_LISTEN", "admin_listen")?,
        })
    }

    /// The addresses for agents and operators.
    ///
    /// # Errors
    /// If the system does not tell one.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.agents.local_addr()?, self.admin.local_addr()?))
    }
}

fn listen(addr: SocketAddr, flag: &str, variable: &str, key: &str) -> Result<TcpListener, String> {
    let bound = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|why: io::Error| {
        format!(
            "cannot listen on {addr}: {why}; choose another address with {flag} IP:PORT, {variable}, or {key} in the \
             configuration"
        )
    })
}

/// The parts of a running gateway.
pub struct Serving {
    config: Arc<ArcSwap<Config>>,
    gateway: Arc<Gateway>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    server: Server<Router>,
    /// State that outlives the process, locked by it.
    state: State,
    /// The demo backend's server, if any.
    demo: Option<mcpool_demo::Server>,
}

impl Serving {
    /// Starts everything but the listeners.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub async fn start(mut config: Config) -> Result<Self, String> {
        let descriptors = startup::raise_descriptors();
        startup::warn_about_proxies();
        let demo = if config.backends.is_empty() { Some(start_demo(&mut config).await?) } else { None };
        let metrics = Arc::new(Metrics::new()?);
        let observer = Arc::new(Observer::new(metrics.clone()));
        let default = config.default_backend.as_deref();
        let gateway = Arc::new(Gateway::start(config.backends.clone(), default, &observer)?);
        let status = Arc::new(Status::new(gateway.clone()));
        let router = Arc::new(gateway.router());
        let state = State::open(&config);
        config.front.sessions = state.sessions.clone();
        config.front.limits.descriptors = descriptors;
        config.front.limits.reserved_descriptors = descriptors::limit(descriptors);
        let fit = descriptors - descriptors / 4;
        if fit < config.front.limits.connections {
            tracing::info!(
                descriptors,
                connections = fit,
                "the open-file limit caps the client connections; raise it for more (LimitNOFILE, `ulimit -n`)"
            );
        }
        let events = observer.events();
        let server = Server::new(config.front.clone(), router, observer, status.clone(), Arc::new(AllowAll));
        let config = Arc::new(ArcSwap::from_pointee(config));
        Ok(Self { config, gateway, status, metrics, events, server, state, demo })
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The reloader of the configuration.
    #[must_use]
    pub fn reloader(&self, overrides: Overrides) -> Arc<Reloader> {
        let parts = Parts {
            gateway: self.gateway.clone(),
            front: self.server.settings(),
            metrics: self.metrics.clone(),
        };
        // The URL parsed before, when it entered the configuration.
        let demo = self.demo.as_ref().and_then(|demo| demo.url_http().parse().ok());
        Reloader::new(overrides, self.config.clone(), parts, demo)
    }

    /// Serves until `stop`, then drains: readiness off, no new agents, calls finish, sessions end. Returns what did not
    /// finish.
    ///
    /// # Cancel safety
    /// Dropping the future ends everything at once.
    pub async fn run(
        self,
        listeners: Listeners,
        stop: CancellationToken,
        reload: Option<ReloadHook>,
    ) -> Vec<String> {
        let Self { config, gateway, status, metrics, events, server, state, demo } = self;
        let admin = Admin {
            status: status.clone(),
            metrics,
            gauges: server.gauges(),
            config: config.clone(),
            events,
            census: Some(server.census()),
            reload,
        };
        let (end_admin, stopped) = (CancellationToken::new(), OnceLock::new());
        let draining = async {
            stop.cancelled().await;
            status.enter(Phase::Draining);
            // Load balancers need time to see the readiness change.
            tokio::time::sleep(config.load().delay).await;
            let _ = stopped.set(Instant::now());
        };
        let serving = async {
            status.enter(Phase::Serving);
            let drained = server.run(listeners.agents, draining).await;
            let spent = stopped.get().map_or(Duration::ZERO, Instant::elapsed);
            let mut unfinished = Vec::new();
            for (count, what) in [(drained.calls, "calls"), (drained.connections, "agent connections")] {
                if count > 0 {
                    unfinished.push(format!("{count} {what}"));
                }
            }
            // Sessions ended at the deadline still get a moment to close.
            let left = config.load().grace.saturating_sub(spent).max(LAST_MOMENT);
            unfinished.extend(gateway.shutdown(left).await);
            end_admin.cancel();
            unfinished
        };
        let running = async {
            tokio::join!(
                serving,
                unharmed(mcpool_admin::run(Arc::new(admin), listeners.admin, end_admin.clone()))
            )
            .0
        };
        let unfinished = tokio::select! {
            unfinished = running => unfinished,
            () = state.maintain(&status) => Vec::new(),
        };
        drop(demo);
        unfinished
    }
}

/// Keeps serving agents if the admin listener panics.
async fn unharmed(admin: impl Future<Output = ()>) {
    if AssertUnwindSafe(admin).catch_unwind().await.is_err() {
        tracing::error!("the admin listener panicked and has ended; restart the gateway to get it back");
    }
}

/// Starts the demo server, reached like any other.
async fn start_demo(config: &mut Config) -> Result<mcpool_demo::Server, String> {
    let script = mcpool_demo::Script { server_name: "mcpool-demo".to_owned(), ..Default::default() };
    let demo = mcpool_demo::Server::start(script)
        .await
        .map_err(|why| format!("cannot start the bundled demo server: {why}"))?;
    let url = demo.url_http().parse().map_err(|why| format!("the demo server has no usable URL: {why}"))?;
    config.serve_demo(url);
    Ok(demo)
}

/// Listen backlog for many simultaneous connects; the kernel caps it.
const BACKLOG: u32 = 4_096;
const LAST_MOMENT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
