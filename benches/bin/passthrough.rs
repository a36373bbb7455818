//! The `passthrough` program: `passthrough --to ADDR`; says where it listens, ends when its standard input is closed.

use clap::Parser as _;
use mcpool_benches::proxy::{self, Options, passthrough};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    proxy::run_program(options.threads, async {
        passthrough::serve(proxy::listen().await?, options.to).await
    })
}
