//! The `soak` program: the gateway for long, under load and under faults; `cargo xtask soak` builds and starts it.

use clap::Parser as _;
use mcpool_benches::soak::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    // Dropping the run ends the programs it started.
    tokio::select! {
        done = soak::run(&options) => done,
        interrupt = tokio::signal::ctrl_c() => interrupt.map_err(Into::into).and_then(|()| interrupted()),
        _ = terminate.recv() => interrupted(),
    }
}

fn interrupted() -> anyhow::Result<()> {
    anyhow::bail!("interrupted")
}
