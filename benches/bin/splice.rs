//! The `splice` program: `splice --to ADDR`; says where it listens, ends when its standard input is closed.

use clap::Parser as _;
use mcpool_benches::proxy::{self, Options, splice};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    proxy::run_program(options.threads, async { splice::serve(proxy::listen().await?, options.to).await })
}
