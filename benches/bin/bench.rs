//! The `bench` program: measures mcpool beside what it is compared with; prints tables, writes JSON.

use clap::Parser as _;
use mcpool_benches::suite::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut builder = match options.load_threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    builder.enable_all().build()?.block_on(async {
        // Dropping the run ends the programs it started.
        tokio::select! {
            done = suite::run(&options) => done,
            signal = interrupted() => signal.and_then(|()| Err(anyhow::anyhow!("interrupted"))),
        }
    })
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
        _ = terminate.recv() => Ok(()),
    }
}
