//! Memory of idle agents: stream open, no connection for POSTs, and nothing held at the backend for them.
//!
//! The difference between before and after is divided by the number of agents; before means after one agent's call,
//! so that the backend's own session does not count as an agent's.

use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use super::{Rig, Settings, Via, rig::Backend};
use crate::{
    load::{Agent, Failure, Front, Target, Work},
    process::{self, Program},
    report::{Limit, Report, Table},
};

/// Handshakes under way at once.
const OPENING: usize = 64;
/// Idle agents that call once more afterwards, to prove that they are still served.
const PROVED: usize = 20;

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    if !settings.has_mcpool() {
        return Ok(());
    }
    let counts: &[usize] = if settings.quick { &[1000] } else { &[1000, 9000] };
    let mut table = Table::new(
        "idle agents of mcpool, stream open",
        &["front", "agents", "start MiB", "before MiB", "after MiB", "KiB/agent", "backend connections"],
    );
    for front in [Front::Http, Front::Sse] {
        for &agents in counts {
            let rig = Rig::with_mcpool_alone(settings, Backend::default()).await?;
            let seen = observe(&rig, front, agents).await?;
            table.row([
                front.as_str().into(),
                agents.to_string(),
                mib(seen.start),
                mib(seen.before),
                mib(seen.after),
                format!("{:.1}", seen.per_agent(agents)),
                format!("{} -> {}", seen.connections.0, seen.connections.1),
            ]);
            bars(report, front, agents, &seen);
        }
    }
    report.table(table)
}

/// Memory in KiB and backend connections.
struct Seen {
    start: u64,
    before: u64,
    after: u64,
    connections: (usize, usize),
}

impl Seen {
    #[allow(clippy::cast_precision_loss)]
    fn per_agent(&self, agents: usize) -> f64 {
        self.after.saturating_sub(self.before) as f64 / agents as f64
    }
}

async fn observe(rig: &Rig, front: Front, agents: usize) -> anyhow::Result<Seen> {
    let mcpool = rig.mcpool.as_ref().context("mcpool is not running")?;
    let start = settled(mcpool).await?;
    rig.wait_until_answered(Via::Mcpool(front), front).await?;
    let before = settled(mcpool).await?;
    let port = rig.backend.addr.port();
    let connections = process::connections_to(port)?;
    let mut open = open_all(&rig.target(Via::Mcpool(front), front)?, agents).await?;
    let after = settled(mcpool).await?;
    let seen = Seen { start, before, after, connections: (connections, process::connections_to(port)?) };
    for agent in open.iter_mut().step_by((agents / PROVED).max(1)) {
        agent
            .call(Work::Echo)
            .await
            .map_err(|failure| anyhow::anyhow!("an idle agent is not served: {failure}"))?;
    }
    Ok(seen)
}

async fn open_all(target: &Target, agents: usize) -> anyhow::Result<Vec<Agent>> {
    let opening = futures::stream::iter(0..agents as u64).map(|key| async move {
        let mut agent = Agent::open(target, key).await?;
        agent.listen().await?;
        agent.rest();
        Ok::<_, Failure>(agent)
    });
    let all = opening.buffer_unordered(OPENING).try_collect();
    let opened =
        tokio::time::timeout(Duration::from_secs(120), all).await.context("agents do not start in 120 s")?;
    opened.map_err(|failure| anyhow::anyhow!("an idle agent cannot start: {failure}"))
}

/// The resident memory once it has not changed for half a second.
async fn settled(program: &Program) -> anyhow::Result<u64> {
    let mut last = program.rss_kib()?;
    let mut same = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = program.rss_kib()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same >= 5 {
            break;
        }
    }
    Ok(last)
}

#[allow(clippy::cast_precision_loss)]
fn bars(report: &mut Report, front: Front, agents: usize, seen: &Seen) {
    let wire = front.as_str();
    let grown = seen.connections.1.saturating_sub(seen.connections.0);
    report.record(json!({
        "scenario": "idle", "front": wire, "agents": agents,
        "start_kib": seen.start, "before_kib": seen.before, "after_kib": seen.after,
        "kib_per_agent": seen.per_agent(agents),
        "backend_connections_before": seen.connections.0, "backend_connections_after": seen.connections.1,
    }));
    report.bar(
        format!("{wire}: KiB per idle agent of {agents}"),
        seen.per_agent(agents),
        Limit::AtMost(24.0),
    );
    if agents >= 9_000 {
        let after = seen.after as f64 / 1024.0;
        report.bar(format!("{wire}: MiB with {agents} idle agents"), after, Limit::AtMost(230.0));
    }
    // A pool may open a few more shared sessions under the herd; an idle agent must not cost one.
    let per_agent = grown as f64 / agents as f64;
    report.bar(
        format!("{wire}: backend connections per idle agent of {agents}"),
        per_agent,
        Limit::AtMost(0.02),
    );
    report.bar(format!("{wire}: start, MiB"), seen.start as f64 / 1024.0, Limit::AtMost(16.0));
}

#[allow(clippy::cast_precision_loss)]
fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}
