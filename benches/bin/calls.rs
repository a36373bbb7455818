//! The `calls` program: opens agents, says `open`, and for each number on its standard input lets every agent make so
//! many small calls, one after another, and says `done`. The first call that fails ends it.

use std::{io::Write as _, net::SocketAddr};

use clap::Parser;
use futures::future::try_join_all;
use mcpool_benches::{
    load::{Agent, Failure, Front, Target, Work},
    proxy,
};

/// The keys of the agents; their nonces follow from them.
const KEY: u64 = 0x5eed;

#[derive(Parser)]
struct Options {
    /// Whom to call.
    #[arg(long)]
    to: SocketAddr,
    /// Path of the endpoint (Streamable HTTP) or of the stream (HTTP+SSE).
    #[arg(long)]
    path: String,
    /// Speak HTTP+SSE.
    #[arg(long)]
    sse: bool,
    /// How many agents.
    #[arg(long, default_value_t = 4)]
    agents: u64,
}

fn main() -> anyhow::Result<()> {
    let Options { to: addr, path, sse, agents } = Options::parse();
    let front = if sse { Front::Sse } else { Front::Http };
    let target = Target { addr, path, front };
    proxy::run_told(1, |mut told| async move {
        let opened = try_join_all((0..agents).map(|agent| Agent::open(&target, KEY ^ (agent << 20))));
        let mut agents = opened.await.map_err(failed)?;
        say("open")?;
        // The closed standard input ends the process.
        while let Some(line) = told.recv().await {
            let calls: u64 = line.parse()?;
            try_join_all(agents.iter_mut().map(|agent| call(agent, calls))).await.map_err(failed)?;
            say("done")?;
        }
        Ok(())
    })
}

async fn call(agent: &mut Agent, calls: u64) -> Result<(), Failure> {
    for _ in 0..calls {
        agent.call(Work::Echo).await?;
    }
    Ok(())
}

fn failed(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("a call failed: {failure}")
}

fn say(word: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{word}")?;
    Ok(out.flush()?)
}
