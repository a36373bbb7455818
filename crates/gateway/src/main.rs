//! The `mcpool` program: reads what it is told, puts the parts together, and owns them until the end.
//!
//! Exit status: 0 as asked, 1 could not, 2 told wrongly (configuration or command line), 130 a second signal.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use clap::Parser as _;
use mcpool::{
    admin::Admin,
    build::Gateway,
    cli::{CheckArgs, Cli, Command, ServeArgs},
    config::{Config, Problems},
    logging,
    observe::{Metrics, Observer, Phase, Status, walk},
    print,
    route::Router,
    signal::Signals,
};
use mcpool_front::Server;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

// A call makes a few dozen small allocations: the system's allocator cost 16 % of the time per call (bench reuse).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().command() {
        Command::Serve(args) => serve(args).await,
        Command::Check(args) => check(args).await,
    }
}

async fn serve(args: ServeArgs) -> ExitCode {
    let config = match Config::load(args.source.config.as_deref(), args.overrides()) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let served = async {
        logging::init(&config.log)?;
        serve_until_signalled(config).await
    };
    served.await.unwrap_or_else(|why: String| fail(&why))
}

async fn serve_until_signalled(config: Config) -> Result<ExitCode, String> {
    let mut signals = Signals::new().map_err(|why| format!("cannot listen for signals: {why}"))?;
    let listeners = Listeners::bind(&config)?;
    let (agents, admin) = listeners.addresses().map_err(|why| why.to_string())?;
    let serving = Serving::start(config).await?;
    // Whether anybody reads it is not a condition for serving.
    let _ = print::ready(&mut io::stdout(), &serving.config, agents, admin);
    let stop = CancellationToken::new();
    let signalled = async {
        let name = signals.next().await;
        tracing::info!(signal = name, "draining; a second signal ends at once");
        stop.cancel();
        signals.next().await
    };
    tokio::select! {
        unfinished = serving.run(listeners, stop.clone()) => {
            say(&print::farewell(&unfinished));
            Ok(ExitCode::SUCCESS)
        }
        name = signalled => {
            say(&format!("mcpool: ended at once by a second signal, {name}"));
            // Returning would wait for what the runtime still runs.
            std::process::exit(130)
        }
    }
}

async fn check(args: CheckArgs) -> ExitCode {
    let config = match Config::load(args.source.config.as_deref(), args.overrides()) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    // A reader that went away has seen enough.
    let _ = print::checked(&mut io::stdout(), &config);
    if !args.connect {
        return ExitCode::SUCCESS;
    }
    match walk(&config, &mut io::stdout()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => fail(&why),
    }
}

/// The sockets, bound before anything else starts: a port in use is found out at once.
struct Listeners {
    agents: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, String> {
        Ok(Self {
            agents: listen(config.listen, "--listen", "MCPOOL_LISTEN", "listen")?,
            admin: listen(config.admin_listen, "--admin-listen", "MCPOOL_ADMIN", "admin_listen")?,
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
    config: Config,
    gateway: Arc<Gateway>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    server: Server<Router>,
    /// The server behind the demo backend: it lives as long as we do.
    demo: Option<mcpool_testkit::Server>,
}

impl Serving {
    async fn start(mut config: Config) -> Result<Self, String> {
        let demo = if config.backends.is_empty() { Some(start_demo(&mut config).await?) } else { None };
        let metrics = Arc::new(Metrics::new()?);
        let observer = Arc::new(Observer::new(metrics.clone()));
        let default = config.default_backend.as_deref();
        let gateway = Arc::new(Gateway::start(config.backends.clone(), default, &observer)?);
        let status = Arc::new(Status::new(gateway.clone()));
        let router = Arc::new(gateway.router());
        let server = Server::new(config.front.clone(), router, observer, status.clone());
        Ok(Self { config, gateway, status, metrics, server, demo })
    }

    /// Serves until `stop`, then drains: readiness off, no new agents, calls finish, sessions end. Says what did not.
    ///
    /// # Cancel safety
    /// Dropping the future ends everything at once.
    async fn run(self, listeners: Listeners, stop: CancellationToken) -> Vec<String> {
        let Self { config, gateway, status, metrics, server, demo } = self;
        let (grace, gauges) = (config.grace, server.gauges());
        let admin = Admin { status: status.clone(), metrics, gauges, config };
        let (end_admin, stopped) = (CancellationToken::new(), OnceLock::new());
        let draining = async {
            stop.cancelled().await;
            status.enter(Phase::Draining);
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
            // Sessions that were asked to end at the last moment still say good-bye.
            unfinished.extend(gateway.shutdown(grace.saturating_sub(spent).max(LAST_MOMENT)).await);
            end_admin.cancel();
            unfinished
        };
        let (unfinished, ()) = tokio::join!(serving, admin.run(listeners.admin, end_admin.clone()));
        drop(demo);
        unfinished
    }
}

/// The bundled server, reached like any other.
async fn start_demo(config: &mut Config) -> Result<mcpool_testkit::Server, String> {
    let script = mcpool_testkit::Script { server_name: "mcpool-demo".to_owned(), ..Default::default() };
    let demo = mcpool_testkit::Server::start(script)
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
    // Nothing is left to be done if nobody hears it.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A herd of agents arrives within one scheduling pause; the kernel cuts this to its own limit.
const BACKLOG: u32 = 4_096;
const LAST_MOMENT: Duration = Duration::from_secs(1);
