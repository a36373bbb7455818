//! The `bench` program: measures mcpool beside what it is compared with; prints tables, writes JSON.

use clap::Parser as _;
use mcpool_benches::suite::{self, Options};

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
    builder.enable_all().build()?.block_on(suite::run(&options))
}
