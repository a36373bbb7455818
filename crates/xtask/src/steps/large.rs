//! Large results over one HTTP+SSE stream of a real server, with the real TypeScript clients and a hundred other agents.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use crate::harness::gateway::Gateway;
use crate::harness::report::Tally;
use crate::real::backends;
use crate::real::cells::{Cell, Drive};
use crate::real::driver;

/// One driver.
const LIMIT: Duration = Duration::from_secs(180);
/// What the gateway may hold at most once all is over, in MiB: itself, a hundred agents, and the pages its allocator
/// has not given back yet. At the busiest moment a few messages of 16 MiB are on their way beside these.
const MOST_MIB: u64 = 128;
/// Time for the allocator to give pages back: it begins 10 s after they were last used.
const SETTLE: Duration = Duration::from_secs(30);

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
    let resident = || Ok::<_, anyhow::Error>(gateway.metric("process_resident_memory_bytes", &[])? >> 20);
    let (start, at_once) = (Instant::now(), resident()?);
    let mut at_rest = at_once;
    while at_rest >= MOST_MIB && start.elapsed() < SETTLE {
        thread::sleep(Duration::from_secs(1));
        at_rest = resident()?;
    }
    let seconds = start.elapsed().as_secs();
    println!("   the gateway holds {at_once} MiB at once afterwards, {at_rest} MiB {seconds} s later");
    tally.add(Tally::check(at_rest < MOST_MIB, || format!("the gateway holds {at_rest} MiB at rest")));
    Ok(tally)
}
