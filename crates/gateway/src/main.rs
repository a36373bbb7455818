//! The `mcpool` program: parses the command line, wires the parts together, and owns them until exit.
//!
//! Exit status: 0 success; 1 failure (or an action not finished in time); 2 invalid configuration or command line; 130
//! second signal.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    panic::AssertUnwindSafe,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use mcpool::{
    admin::Admin,
    banner,
    cli::{CheckArgs, Cli, Command, DoctorArgs, RehearseArgs, ServeArgs},
    config::{Config, Overrides, Problems},
    console::Ask,
    logging,
    observe::{Events, Metrics, Observer, Phase, Status, walk},
    reload::{Parts, ReloadHook, Reloader},
    signal::{Hangups, Signals},
    startup,
    state_dir::State,
};
use mcpool_front::{AllowAll, Server};
use mcpool_router::{gateway::Gateway, route::Router, verbs::Verb};
use mcpool_upstream::descriptors;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

// A call makes dozens of small allocations; the system's allocator cost 16 % of its time (bench reuse). jemalloc
// returns memory left half empty by departed agents; mimalloc kept a little more of it every hour (soak).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    match mcpool::supervisor::role() {
        Some(role) => return role.play(),
        None => mcpool::supervisor::supervise_backends(),
    }
    let command = match Cli::read() {
        Ok(cli) => cli.command(),
        Err(wrong) => wrong.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return fail(&format!("cannot start: {why}")),
    };
    let code = runtime.block_on(async {
        match command {
            Command::Serve(args) => serve(args).await,
            Command::Check(args) => check(args).await,
            Command::Doctor(args) => doctor(&args).await,
            Command::Rehearse(args) => rehearse(&args).await,
            Command::Status(args) => console(Ask::Status(args)).await,
            Command::Agents(args) => console(Ask::Agents(args)).await,
            Command::Calls(args) => console(Ask::Calls(args)).await,
            Command::Pause(args) => console(Ask::Verb(Verb::Pause, args)).await,
            Command::Resume(args) => console(Ask::Verb(Verb::Resume, args)).await,
            Command::Reconnect(args) => console(args.into()).await,
            Command::Drain(args) => console(Ask::Verb(Verb::Drain, args)).await,
            Command::Reload(args) => console(Ask::Reload(args)).await,
            Command::Completions { shell } => {
                let (mut cli, mut text) = (<Cli as clap::CommandFactory>::command(), Vec::new());
                clap_complete::generate(shell, &mut cli, "mcpool", &mut text);
                // A closed output needs no more text.
                let _ = io::stdout().write_all(&text);
                ExitCode::SUCCESS
            }
        }
    });
    // Drops what still runs, which kills backend processes; does not wait for a thread in a DNS lookup.
    runtime.shutdown_timeout(ABANDON);
    code
}

async fn serve(args: ServeArgs) -> ExitCode {
    let (overrides, config) = match args.overrides().and_then(|overrides| {
        Ok((overrides.clone(), Config::load(args.source.config.as_deref(), overrides)?))
    }) {
        Ok(read) => read,
        Err(problems) => return refuse(&problems),
    };
    let served = async {
        logging::init(&config.log)?;
        logging::tell_of_panics();
        serve_until_signalled(config, overrides).await
    };
    served.await.unwrap_or_else(|why: String| fail(&why))
}

async fn serve_until_signalled(config: Config, overrides: Overrides) -> Result<ExitCode, String> {
    let deaf = |why: io::Error| format!("cannot listen for signals: {why}");
    let (mut signals, hangups) = (Signals::new().map_err(deaf)?, Hangups::new().map_err(deaf)?);
    mcpool_front::warm_up();
    let listeners = Listeners::bind(&config)?;
    let (agents, admin) = listeners.addresses().map_err(|why| why.to_string())?;
    let serving = Serving::start(config).await?;
    // A closed output is no reason not to serve.
    let _ = banner::ready(&mut io::stdout(), &serving.config.load(), agents, admin);
    let stop = CancellationToken::new();
    let reloader = serving.reloader(overrides);
    let signalled = async {
        let name = signals.next().await;
        tracing::info!(signal = name, "draining; a second signal ends at once");
        stop.cancel();
        signals.next().await
    };
    let running = async {
        let (unfinished, ()) = tokio::join!(
            serving.run(listeners, stop.clone(), Some(reloader.hook())),
            reloader.run(hangups, stop.clone())
        );
        unfinished
    };
    tokio::select! {
        unfinished = running => {
            say(&banner::farewell(&unfinished));
            Ok(ExitCode::SUCCESS)
        }
        name = signalled => {
            say(&format!("mcpool: ended at once by a second signal, {name}"));
            Ok(ExitCode::from(130))
        }
    }
}

async fn check(args: CheckArgs) -> ExitCode {
    let config = match Config::load(args.source.config.as_deref(), args.overrides()) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    // A closed output needs no more text.
    let _ = banner::checked(&mut io::stdout(), &config, args.print);
    if !args.connect {
        return ExitCode::SUCCESS;
    }
    told(walk(&config, &mut io::stdout()).await)
}

async fn doctor(args: &DoctorArgs) -> ExitCode {
    match args.backend() {
        Ok(Some(backend)) => told(mcpool::doctor::examine(backend, &mut io::stdout()).await),
        Ok(None) => told(mcpool::console::examine(args, &mut io::stdout()).await),
        Err(why) => {
            say(&format!("mcpool: {why}"));
            ExitCode::from(2)
        }
    }
}

async fn rehearse(args: &RehearseArgs) -> ExitCode {
    told(mcpool::rehearse::rehearse(&args.rehearsal(), args.json, &mut io::stdout()).await)
}

/// Exit status of a command that answers yes or no.
fn told(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => fail(&why),
    }
}

/// Runs a console command.
async fn console(ask: Ask) -> ExitCode {
    match mcpool::console::run(ask, &mut io::stdout()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => fail(&why),
    }
}

/// The listeners, bound before anything else starts, to detect a used port early.
struct Listeners {
    agents: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, String> {
        Ok(Self {
            agents: listen(config.listen, "--listen", "MCPOOL_LISTEN", "listen")?,
            admin: listen(config.admin_listen, "--admin-listen", "MCPOOL_ADMIN_LISTEN", "admin_listen")?,
        })
    }

    fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
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
struct Serving {
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
    async fn start(mut config: Config) -> Result<Self, String> {
        let descriptors = startup::raise_descriptors();
        startup::warn_of_proxies();
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

    /// The reloader of the configuration.
    fn reloader(&self, overrides: Overrides) -> Arc<Reloader> {
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
    async fn run(
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
            () = state.keep(&status) => Vec::new(),
        };
        drop(demo);
        unfinished
    }
}

/// Keeps serving agents if the admin listener panics.
async fn unharmed(admin: impl Future<Output = ()>) {
    if AssertUnwindSafe(admin).catch_unwind().await.is_err() {
        tracing::error!("the admin listener ended by a panic; a restart brings it back");
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

fn refuse(problems: &Problems) -> ExitCode {
    say(&problems.to_string());
    ExitCode::from(2)
}

fn fail(why: &str) -> ExitCode {
    say(&format!("mcpool: {why}"));
    ExitCode::FAILURE
}

fn say(line: &str) {
    // Nothing can be done if standard error is closed.
    let _ = writeln!(io::stderr(), "{}", mcpool::terminal::escaped(line));
}

/// Listen backlog for many simultaneous connects; the kernel caps it.
const BACKLOG: u32 = 4_096;
const LAST_MOMENT: Duration = Duration::from_millis(500);
const ABANDON: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use mcpool_demo::agent::{Agent, AgentConfig};
    use serde_json::{Value, json};

    use super::*;

    struct Rig {
        agents: SocketAddr,
        admin: SocketAddr,
        stop: CancellationToken,
        running: tokio::task::JoinHandle<Vec<String>>,
    }

    impl Rig {
        /// A complete gateway with its demo server.
        async fn start(grace: Duration) -> Self {
            let mut config = Config { grace, ..Config::default() };
            config.front.times.drain = grace;
            config.listen.set_port(0);
            config.admin_listen.set_port(0);
            let listeners = Listeners::bind(&config).unwrap();
            let (agents, admin) = listeners.addresses().unwrap();
            let serving = Serving::start(config).await.unwrap();
            let stop = CancellationToken::new();
            let running = tokio::spawn(serving.run(listeners, stop.clone(), None));
            Self { agents, admin, stop, running }
        }

        fn url(&self, path: &str) -> String {
            format!("http://{}/{path}", self.agents)
        }

        async fn ready_page(&self) -> (u16, Value) {
            let page =
                Agent::connect(AgentConfig::http(format!("http://{}/readyz", self.admin))).await.unwrap();
            let answer = page.get("/readyz", &[]).await.unwrap();
            (answer.status, serde_json::from_slice(&answer.body).unwrap())
        }
    }

    #[tokio::test]
    async fn the_first_run_shows_two_agents_sharing_one_session() {
        let rig = Rig::start(Duration::from_secs(10)).await;
        let sse = Agent::ready(AgentConfig::sse(rig.url("sse"))).await.unwrap();
        let http = Agent::ready(AgentConfig::http(rig.url("demo/mcp"))).await.unwrap();
        for agent in [&sse, &http] {
            let answer = agent.call_tool("echo", json!({ "text": "hello" })).await.unwrap();
            assert!(answer.to_string().contains("hello"), "{answer}");
        }
        let (status, page) = rig.ready_page().await;
        assert_eq!((status, &page["status"]), (200, &"ok".into()), "{page}");
        let demo = &page["backends"]["demo"];
        assert_eq!((&demo["agents"], &demo["sessions"]), (&2.into(), &1.into()), "{page}");
        sse.close().await;
        http.close().await;
        rig.stop.cancel();
        assert_eq!(rig.running.await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn an_end_waits_for_calls_and_is_unready_meanwhile() {
        let rig = Rig::start(Duration::from_secs(20)).await;
        let agent = Agent::ready(AgentConfig::sse(rig.url("sse"))).await.unwrap();
        let mut call = agent.start_tool("sleep", json!({ "ms": 2_000 })).unwrap();
        let in_flight =
            async { while rig.ready_page().await.1["status"] != "ok" || call_count(&rig).await == 0 {} };
        tokio::time::timeout(Duration::from_secs(10), in_flight).await.unwrap();
        rig.stop.cancel();
        // The running call prolongs the drain, so the page is visible.
        while rig.ready_page().await.0 != 503 {}
        call.finish().await.unwrap();
        assert_eq!(rig.running.await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_outlives_the_grace_is_named() {
        let rig = Rig::start(Duration::from_millis(200)).await;
        let agent = Agent::ready(AgentConfig::sse(rig.url("sse"))).await.unwrap();
        let _call = agent.start_tool("sleep", json!({ "ms": 60_000 })).unwrap();
        let in_flight = async { while call_count(&rig).await == 0 {} };
        tokio::time::timeout(Duration::from_secs(10), in_flight).await.unwrap();
        rig.stop.cancel();
        let unfinished = tokio::time::timeout(Duration::from_secs(10), rig.running).await.unwrap().unwrap();
        assert!(unfinished.contains(&"1 calls".to_owned()), "{unfinished:?}");
    }

    async fn call_count(rig: &Rig) -> u64 {
        let page = Agent::connect(AgentConfig::http(format!("http://{}/x", rig.admin))).await.unwrap();
        let answer = page.get("/api/v1/backends/demo", &[]).await.unwrap();
        let demo: Value = serde_json::from_slice(&answer.body).unwrap();
        demo["calls"]["in_flight"].as_u64().unwrap()
    }

    #[tokio::test]
    async fn a_port_in_use_names_the_flag_to_change() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        for (listen, admin_listen, flag) in [
            (taken.local_addr().unwrap(), free, "--listen IP:PORT, MCPOOL_LISTEN"),
            (free, taken.local_addr().unwrap(), "--admin-listen IP:PORT, MCPOOL_ADMIN_LISTEN"),
        ] {
            let config = Config { listen, admin_listen, ..Config::default() };
            let why = Listeners::bind(&config).map(|_| ()).unwrap_err();
            assert!(why.contains(flag) && why.contains("in use"), "{why}");
        }
    }

    #[tokio::test]
    async fn a_backend_that_is_down_does_not_keep_it_from_starting() {
        let backend = mcpool::config::BackendFlag {
            name: "gone".into(),
            url: "http://127.0.0.1:9/mcp".parse().unwrap(),
        };
        let overrides = Overrides { backends: vec![backend], ..Overrides::default() };
        let mut config = Config::load(None, overrides).unwrap();
        config.listen.set_port(0);
        let serving = Serving::start(config).await.unwrap();
        assert!(serving.demo.is_none());
        assert_eq!(serving.gateway.backends().len(), 1);
    }
}
