//! The `mcpool-testkit` program: the conformance fixture alone in a process; says where it listens.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use mcpool_testkit::fixture::{Era, Fixture, FixtureConfig};

/// A server with everything the conformance suites ask for, in all revisions of MCP.
#[derive(Parser)]
struct Options {
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
async fn main() -> io::Result<()> {
    let options = Options::parse();
    let era = match options.era {
        Spoken::Both => Era::Both,
        Spoken::Legacy => Era::Legacy,
        Spoken::Modern => Era::Modern,
    };
    let config = FixtureConfig { addr: options.listen, era, sse: options.sse, ..FixtureConfig::default() };
    let fixture = Fixture::start(config).await?;
    let mut out = io::stdout();
    writeln!(out, "listening on {}", fixture.url())?;
    out.flush()?;
    if options.until_stdin_closes {
        // The thread that reads ends with the input, and so does the program.
        tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    } else {
        tokio::signal::ctrl_c().await?;
    }
    Ok(())
}
