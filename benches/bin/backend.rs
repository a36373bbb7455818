//! The `backend` program: the test kit's server alone in a process; says where it listens. Told `forget`, `forget-all`
//! or `close-streams` on its standard input, it loses its sessions, them and their streams, or the streams alone.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use mcpool_benches::proxy;
use mcpool_testkit::{Answer, Script, Server};

/// Event streams are written in pieces of this size, as a real network would deliver them.
const CHUNK: usize = 16 * 1024;
/// Sessions and connections it takes: more than any measurement opens.
const MANY: usize = 18_000;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The habits of the reference server: a session it does not know is 400, a cancelled call is never answered.
    #[arg(long)]
    everything: bool,
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
    let habits = if options.everything { Script::everything() } else { Script::default() };
    let script = Script {
        addr: options.listen,
        handshake_delay: Duration::from_millis(options.handshake_ms),
        answer: if options.events { Answer::Sse } else { habits.answer },
        chunk: Some(CHUNK),
        session_cap: MANY,
        connection_cap: MANY,
        ..habits
    };
    proxy::run_told(options.threads, |mut told| async move {
        let server = Server::start(script).await?;
        proxy::announce(server.addr())?;
        // The closed standard input ends the process.
        while let Some(line) = told.recv().await {
            match line.as_str() {
                "forget" => server.forget_sessions(true),
                "forget-all" => server.forget_sessions(false),
                "close-streams" => server.close_streams(),
                other => anyhow::bail!("told {other:?}, which is nothing it knows"),
            }
        }
        Ok(())
    })
}
