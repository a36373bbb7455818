//! The raw agents: what agents write that no SDK of ours does, at sound servers through the gateway.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::harness::report::Tally;
use crate::steps::field::servers::Servers;

/// All of them.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs those whose name contains a part; one check each.
///
/// # Errors
/// When they do not start, or are not done in time.
pub(super) fn run(servers: &Servers, gateway: &Gateway, only: &str) -> Result<Tally> {
    let began = Instant::now();
    let (to, from) = (gateway.port.to_string(), servers.port.to_string());
    let job = servers.agents().args(["--gateway", &to, "--server", &from, "--only", only]);
    let mut service = job.service("field-agents")?;
    let mut tally = Tally::default();
    while let Some(line) = service.line(LIMIT.saturating_sub(began.elapsed()))? {
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        let word = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        tally
            .add(Tally::check(said["ok"] == true, || format!("agent-{}: {}", word("agent"), word("detail"))));
    }
    if !service.end(Duration::from_secs(5))? {
        tally.add(Tally::fault(format!("the raw agents ended early; {}", service.last_words())));
    }
    println!("   {} raw agents {:>6.1} s", tally.passed + tally.failed, began.elapsed().as_secs_f64());
    Ok(tally)
}
