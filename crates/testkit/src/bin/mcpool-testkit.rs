//! The `mcpool-testkit` program: the conformance fixture alone in a process, which says where it listens; or the
//! client's part in a scenario of the conformance suite.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mcpool_testkit::fixture::{Era, Fixture, FixtureConfig};
use mcpool_testkit::suite::{Scenario, Speech};
use serde_json::Value;

/// A server with everything the conformance suites ask for, in all revisions of MCP.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Plays a client scenario of the conformance suite, with a gateway as the client.
    Client(Client),
}

#[derive(Args)]
struct Client {
    /// The gateway's program.
    #[arg(long)]
    mcpool: PathBuf,
    /// The era of the backend in the gateway: auto, legacy or modern.
    #[arg(long, default_value = "auto")]
    era: String,
    /// How the agent behind the gateway speaks.
    #[arg(long, value_enum)]
    agent: Spoke,
    /// The scenario.
    #[arg(long, env = "MCP_CONFORMANCE_SCENARIO")]
    scenario: String,
    /// What the suite says besides, JSON.
    #[arg(long, env = "MCP_CONFORMANCE_CONTEXT", default_value = "null")]
    context: String,
    /// Where the scenario's server is.
    url: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Spoke {
    /// With a handshake.
    Legacy,
    /// As 2026-07-28 has it.
    Modern,
}

#[derive(Args)]
struct Serve {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Which revisions it speaks.
    #[arg(long, value_enum, default_value_t = Spoken::Both)]
    era: Spoken,
    /// Serve the revisions with a handshake over HTTP+SSE at /sse, too.
    #[arg(long)]
    sse: bool,
    /// End when the standard input is closed, and not only by a signal.
    #[arg(long)]
    until_stdin_closes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Spoken {
    /// Those with a handshake and 2026-07-28.
    Both,
    /// Those with a handshake.
    Legacy,
    /// 2026-07-28 alone.
    Modern,
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let Options { command, serve } = Options::parse();
    match command {
        Some(Command::Client(client)) => client.play().await,
        None => serve.run().await,
    }
}

impl Client {
    async fn play(self) -> io::Result<ExitCode> {
        let context: Value = serde_json::from_str(&self.context)?;
        let speech = match self.agent {
            Spoke::Legacy => Speech::Handshake,
            Spoke::Modern => Speech::Modern,
        };
        let (name, mcpool) = (self.scenario, self.mcpool);
        let played = Scenario { name, context, url: self.url, mcpool, era: self.era, speech }.play().await;
        // The suite keeps what is said for whoever judges the run.
        match &played {
            Ok(()) => writeln!(io::stdout(), "as it should be")?,
            Err(why) => writeln!(io::stdout(), "{why}")?,
        }
        Ok(if played.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Serve {
    async fn run(self) -> io::Result<ExitCode> {
        let era = match self.era {
            Spoken::Both => Era::Both,
            Spoken::Legacy => Era::Legacy,
            Spoken::Modern => Era::Modern,
        };
        let config = FixtureConfig { addr: self.listen, era, sse: self.sse, ..FixtureConfig::default() };
        let fixture = Fixture::start(config).await?;
        let mut out = io::stdout();
        writeln!(out, "listening on {}", fixture.url())?;
        out.flush()?;
        if self.until_stdin_closes {
            // The thread that reads ends with the input, and so does the program.
            tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
        } else {
            tokio::signal::ctrl_c().await?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
