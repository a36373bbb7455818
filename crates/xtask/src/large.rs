//! Large results over one HTTP+SSE stream of a real server, with the real TypeScript clients and a hundred other agents.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::backends;
use crate::cells::{Cell, Drive};
use crate::driver;
use crate::gateway::Gateway;
use crate::report::Tally;

/// One driver.
const LIMIT: Duration = Duration::from_secs(180);
/// What the gateway may hold at most afterwards, in MiB: itself, a hundred agents, and a few messages of 16 MiB on
/// their way at the busiest moment.
const MOST_MIB: u64 = 200;

/// Nothing to choose.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {}

/// Runs both TypeScript clients over both transports, one after the other.
///
/// # Errors
/// When the backend or the gateway does not start.
pub(crate) fn run(_: &Options) -> Result<Tally> {
    let backend = backends::fastmcp("sse").start()?;
    let table =
        format!("{}mode = \"shared\"\nshared_sessions = 1\ncalls_per_session = 128\n", backend.reached());
    let gateway = Gateway::tables("gateway-large", &[("fastmcp4-sse", table)])?;
    let cells = [Cell { backend: "fastmcp4-sse".to_owned(), kind: "fastmcp", expect: "large" }];
    let mut tally = Tally::default();
    for client in driver::ALL.iter().filter(|client| client.name.starts_with("ts-")) {
        for transport in ["http", "sse"] {
            let name = format!("large-{}/{transport}", client.name);
            let drive = Drive { name, transport, cells: &cells, checks: &["large"], limit: LIMIT };
            tally.add(drive.run(client.driver("large"), gateway.port));
        }
    }
    let resident = gateway.metric("process_resident_memory_bytes", &[])? >> 20;
    println!("   the gateway holds {resident} MiB afterwards");
    tally.add(Tally::check(resident < MOST_MIB, || format!("the gateway holds {resident} MiB")));
    Ok(tally)
}
