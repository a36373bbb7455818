//! A whole gateway in this process: front, stack and pools over real sockets on loopback, without the edges
//! (configuration file, admin listener). What happens is counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcpool_front::{
    AllowAll, FrontConfig, FrontEvent, FrontLimits, FrontObserve, FrontTimes, Gauges, Health, Outcome,
    Readiness, Server,
};
use mcpool_router::{
    events::{GatewayObserve, StackObserve},
    gateway::Gateway,
    settings::{BackendSettings, RetrySettings},
};
use mcpool_upstream::{
    BackendSpec, Endpoint, Event, HttpEndpoint, Limits, ModeChoice, Observe, Origin, Sharing, Source,
    StdioEndpoint, Times, TransportChoice,
};
use mcpool_wire::BackendId;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// A running gateway.
pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    pub(crate) gauges: Arc<Gauges>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// What happened so far.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) events: Mutex<Vec<String>>,
    pub(crate) dropped: Mutex<BTreeMap<&'static str, usize>>,
    pub(crate) statuses: Mutex<BTreeMap<u16, usize>>,
    pub(crate) failures: Mutex<Vec<String>>,
    pub(crate) retried: AtomicUsize,
    pub(crate) rejected: AtomicUsize,
    /// Streams that were closed because their agent did not read.
    pub(crate) slow: AtomicUsize,
    pub(crate) transitions: Mutex<Vec<String>>,
}

/// What a test wants of one backend.
pub(crate) struct Wanted {
    pub(crate) endpoint: Endpoint,
    pub(crate) mode: ModeChoice,
    pub(crate) sharing: Sharing,
    pub(crate) transport: TransportChoice,
    pub(crate) times: Times,
    pub(crate) limits: Limits,
    pub(crate) breaker: mcpool_breaker::Settings,
    /// Sent to the backend with every request.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) front: FrontTimes,
    pub(crate) front_limits: FrontLimits,
    pub(crate) fan_out_logs: bool,
    /// Repeats that are allowed, in percent of the calls.
    pub(crate) retry_budget: u32,
}

impl Wanted {
    pub(crate) fn shared(url: String) -> Self {
        let url = url.parse().expect("a URL");
        Self {
            endpoint: Endpoint::Http(HttpEndpoint::new(url)),
            mode: ModeChoice::Shared,
            sharing: Sharing::default(),
            transport: TransportChoice::Auto,
            times: Times::default(),
            limits: Limits::default(),
            breaker: mcpool_breaker::Settings::default(),
            headers: Vec::new(),
            front: FrontTimes { drain: Duration::from_secs(2), ..FrontTimes::default() },
            front_limits: FrontLimits::default(),
            fan_out_logs: false,
            retry_budget: RetrySettings::default().budget,
        }
    }

    /// A program, everything at its default.
    pub(crate) fn program(endpoint: StdioEndpoint) -> Self {
        Self {
            endpoint: Endpoint::Stdio(endpoint),
            transport: TransportChoice::Stdio,
            times: Times::of_process(),
            limits: Limits::of_process(),
            ..Self::shared("http://unused/".to_owned())
        }
    }

    pub(crate) fn settings(self, id: u32, name: &str) -> BackendSettings {
        let header =
            |(name, value): (&str, &str)| (name.parse().expect("a name"), value.parse().expect("a value"));
        let endpoint = match self.endpoint {
            Endpoint::Http(http) => {
                let headers = self.headers.into_iter().map(header).collect();
                Endpoint::Http(HttpEndpoint { headers, ..http })
            }
            program @ Endpoint::Stdio(_) => program,
        };
        let spec = BackendSpec {
            id: BackendId(id),
            name: name.into(),
            durable_id: None,
            origin: Origin::Cli,
            generation: 1,
            endpoint,
            transport: self.transport,
            mode: self.mode,
            sharing: self.sharing,
            fan_out_logs: self.fan_out_logs,
            times: self.times,
            limits: self.limits,
        };
        BackendSettings {
            spec,
            breaker: self.breaker,
            retry: RetrySettings { budget: self.retry_budget, ..RetrySettings::default() },
        }
    }
}

impl Rig {
    /// Starts a gateway in front of one backend.
    pub(crate) async fn start(wanted: Wanted) -> Self {
        Self::start_all(vec![("demo", wanted)]).await
    }

    /// Starts a gateway in front of several backends; its front is what the first of them wants.
    pub(crate) async fn start_all(all: Vec<(&str, Wanted)>) -> Self {
        let seen = Arc::new(Seen::default());
        let (_, first) = all.first().expect("a backend");
        let forward_headers = first.sharing.forward_headers.clone();
        let (times, limits) = (first.front, first.front_limits);
        let config = FrontConfig { times, limits, forward_headers, ..FrontConfig::default() };
        let settings =
            all.into_iter().zip(0..).map(|((name, wanted), id)| wanted.settings(id, name)).collect();
        let gateway = Gateway::start(settings, None, &Arc::new(Eyes(seen.clone()))).expect("a gateway");
        let router = Arc::new(gateway.router());
        let server =
            Server::new(config, router, Arc::new(Eyes(seen.clone())), Arc::new(Fine), Arc::new(AllowAll));
        let gauges = server.gauges();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let shutdown = async move {
                let _ = stopped.await;
            };
            server.run(listener, shutdown).await;
        });
        Self { gateway, addr, seen, gauges, stop: Some(stop), serving }
    }

    pub(crate) fn url_http(&self) -> String {
        format!("http://{}/mcp", self.addr)
    }

    pub(crate) fn url_sse(&self) -> String {
        format!("http://{}/sse", self.addr)
    }

    /// The URL of one of several backends: `path` is `sse` or `mcp`.
    pub(crate) fn url_of(&self, backend: &str, path: &str) -> String {
        format!("http://{}/{backend}/{path}", self.addr)
    }

    /// What is held at the backend: calls in flight, book entries, callers waiting.
    pub(crate) fn held(&self) -> (usize, usize, usize) {
        let status = self.gateway.backends()[0].backend.status();
        let pending = status.sessions.iter().map(|s| s.pending).sum();
        (status.leases.0, pending, status.waiting.calls)
    }

    /// Waits until nothing is held any more.
    pub(crate) async fn idle(&self) {
        let settled = async {
            while self.held() != (0, 0, 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), settled)
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.held()));
    }

    pub(crate) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.serving).await;
        let left = self.gateway.shutdown(Duration::from_secs(5)).await;
        assert!(left.is_empty(), "still running: {left:?}");
    }
}

impl Seen {
    pub(crate) fn non_2xx(&self) -> BTreeMap<u16, usize> {
        let statuses = self.statuses.lock().expect("not poisoned");
        statuses.iter().filter(|(code, _)| !(200..300).contains(*code)).map(|(c, n)| (*c, *n)).collect()
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("not poisoned").clone()
    }
}

#[derive(Default)]
pub(crate) struct Eyes(Arc<Seen>);

struct Fine;

impl Health for Fine {
    fn readiness(&self) -> Readiness {
        Readiness::Ok
    }

    fn version(&self) -> &str {
        "0"
    }

    fn details(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }
}

impl Observe for Eyes {
    fn on(&self, _: &Source, event: Event<'_>) {
        match event {
            Event::Dropped { kind } => {
                *self.0.dropped.lock().expect("not poisoned").entry(kind).or_default() += 1
            }
            Event::Answered { .. } | Event::Rung { .. } | Event::Probed { .. } => {}
            other => self.0.events.lock().expect("not poisoned").push(format!("{other:?}")),
        }
    }
}

impl GatewayObserve for Eyes {
    fn stack(&self, _: &Source) -> Arc<dyn StackObserve> {
        Arc::new(Self(self.0.clone()))
    }

    fn transition(&self, _: &Source, transition: &mcpool_breaker::Transition) {
        self.0.transitions.lock().expect("not poisoned").push(format!("{transition:?}"));
    }
}

impl StackObserve for Eyes {
    fn leased(&self, _: Duration) {}

    fn retried(&self, _: &'static str) {
        self.0.retried.fetch_add(1, Ordering::Relaxed);
    }

    fn rejected(&self, _: &'static str) {
        self.0.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

impl FrontObserve for Eyes {
    fn on(&self, event: &FrontEvent<'_>) {
        match event {
            FrontEvent::Responded { code, .. } => {
                *self.0.statuses.lock().expect("not poisoned").entry(*code).or_default() += 1;
            }
            FrontEvent::SlowAgentClosed => {
                self.0.slow.fetch_add(1, Ordering::Relaxed);
            }
            FrontEvent::CallEnded(end)
                if !matches!(end.outcome, Outcome::Ok | Outcome::ToolError | Outcome::Cancelled) =>
            {
                let line =
                    format!("{} {:?} {:?} {:?}", end.method.as_str(), end.outcome, end.executed, end.error);
                let mut failures = self.0.failures.lock().expect("not poisoned");
                if failures.len() < 200 {
                    failures.push(line);
                }
            }
            _ => {}
        }
    }
}
