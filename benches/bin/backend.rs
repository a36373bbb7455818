//! The `backend` program: the test kit's server alone in a process; says where it listens.

use std::time::Duration;

use clap::Parser;
use mcpool_benches::proxy;
use mcpool_testkit::{Answer, Script, Server};

/// Event streams are written in pieces of this size, as a real network would deliver them.
const CHUNK: usize = 16 * 1024;
/// Sessions and connections it takes: more than any measurement opens.
const MANY: usize = 18_000;

#[derive(Parser)]
struct Options {
    /// How long a handshake takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    handshake_ms: u64,
    /// Answer every POST with an event stream.
    #[arg(long)]
    events: bool,
    /// Worker threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let script = Script {
        handshake_delay: Duration::from_millis(options.handshake_ms),
        answer: if options.events { Answer::Sse } else { Answer::Auto },
        chunk: Some(CHUNK),
        session_cap: MANY,
        connection_cap: MANY,
        ..Script::default()
    };
    proxy::run_program(options.threads, async {
        let server = Server::start(script).await?;
        proxy::announce(server.addr())?;
        // The closed standard input ends the process.
        std::future::pending().await
    })
}
