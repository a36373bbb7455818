//! The `mcpool` program: parses the command line, wires the parts together, and owns them until exit.
//!
//! Exit status: 0 success; 1 failure (or an action not finished in time); 2 invalid configuration or command line; 130
//! second signal.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use mcpool::{
    banner,
    cli::{CheckArgs, Cli, Command, DoctorArgs, RehearseArgs, ServeArgs},
    config::{Config, Overrides, Problems},
    console::Ask,
    logging,
    observe::check_connections,
    serving::{Listeners, Serving},
    signal::{Hangups, Signals},
};
use mcpool_router::verbs::Verb;
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
        logging::log_panics();
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
    let _ = banner::ready(&mut io::stdout(), &serving.config(), agents, admin);
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
            print_error(&banner::last_line(&unfinished));
            Ok(ExitCode::SUCCESS)
        }
        name = signalled => {
            print_error(&format!("mcpool: ended at once by a second signal, {name}"));
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
    exit_code(check_connections(&config, &mut io::stdout()).await)
}

async fn doctor(args: &DoctorArgs) -> ExitCode {
    match args.backend() {
        Ok(Some(backend)) => exit_code(mcpool::doctor::examine(backend, &mut io::stdout()).await),
        Ok(None) => exit_code(mcpool::console::examine(args, &mut io::stdout()).await),
        Err(why) => {
            print_error(&format!("mcpool: {why}"));
            ExitCode::from(2)
        }
    }
}

async fn rehearse(args: &RehearseArgs) -> ExitCode {
    exit_code(mcpool::rehearse::rehearse(&args.rehearsal(), args.json, &mut io::stdout()).await)
}

/// Exit status of a command that answers yes or no.
fn exit_code(outcome: Result<bool, String>) -> ExitCode {
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

fn refuse(problems: &Problems) -> ExitCode {
    print_error(&problems.to_string());
    ExitCode::from(2)
}

fn fail(why: &str) -> ExitCode {
    print_error(&format!("mcpool: {why}"));
    ExitCode::FAILURE
}

fn print_error(line: &str) {
    // Nothing can be done if standard error is closed.
    let _ = writeln!(io::stderr(), "{}", mcpool::terminal::escaped(line));
}

const ABANDON: Duration = Duration::from_millis(100);
