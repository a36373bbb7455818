//! A large result beside small calls: one agent asks for 8 MiB again and again (one event, written in chunks of
//! 16 KiB), the others call at a fixed rate; what matters is their p99 beside its quiet value.
//!
//! The direct way is the control: what the machine's cores and the backend alone make of it. The bar is for others
//! that call another backend through the same gateway; of one backend, and over HTTP+SSE of one stream, small answers
//! stand behind the large one before any gateway sees them. All share two cores here which would have machines of their
//! own: where the system can (`chrt`), who asks for the large results and the other backend run behind all others; the
//! gateway, the others and their backend run ahead of all, as equals. What is left is what the gateway does to them.
//! Idle scheduling alone is not enough: a thread that was preempted may come after an idle one until the next tick (a
//! gateway at the ordinary rank waited 2.3 ms for one in a trace). The direct way shows how far all this works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Rig, Settings, Via, paired, quantile_ms,
    rig::{Backend, Which},
};
use crate::{
    load::{self, Agent, Drive, Front, Histogram, Target, Work},
    process::Rank,
    report::{Limit, Report, Table, median},
};

const SIZE: usize = 8 * 1024 * 1024;
const AGENTS: usize = 16;
const RATE: u32 = 400;
/// Longest time one large result may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    // Over Streamable HTTP, too, the answer comes as one event.
    let rig = Rig::with_two_backends(settings, Backend { handshake_ms: 0, events: true }).await?;
    let _ahead = Ahead::take();
    let mut table = Table::new(
        format!("8 MiB results beside {RATE} calls/s over {AGENTS} agents"),
        &["way", "large result from", "quiet p99 ms", "p99 ms", "times", "8 MiB p50 ms", "results"],
    );
    for front in [Front::Http, Front::Sse] {
        let mcpool = settings.has_mcpool().then_some(Via::Mcpool(front));
        for via in [Some(Via::Direct), mcpool].into_iter().flatten() {
            for (which, from) in [(Which::Second, "another backend"), (Which::Main, "the same backend")] {
                let seen = observe(settings, &rig, which, via, front, report).await?;
                table.row(seen.row(format!("{} {}", front.as_str(), via.name(front)), from));
                report.record(json!({
                    "scenario": "8 MiB results", "front": front.as_str(), "via": via.name(front), "from": from,
                    "quiet_p99_ms": seen.quiet_ms, "p99_ms": seen.busy_ms, "times": seen.times,
                    "big_p50_ms": seen.big_ms(), "big_results": seen.big.len(),
                }));
                if matches!(via, Via::Mcpool(_)) && which == Which::Second {
                    let name = format!("{}: p99 of others during 8 MiB results, times quiet", front.as_str());
                    report.bar(name, seen.times, Limit::AtMost(2.0));
                }
            }
        }
    }
    report.table(table)
}

/// The calling thread, which drives the agents, runs ahead of all others for as long as this lives.
struct Ahead;

impl Ahead {
    fn take() -> Self {
        // Without it the measure is harder on the gateway, not easier.
        let _ = Rank::Ahead.take();
        Self
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let _ = Rank::Ordinary.take();
    }
}

struct Seen {
    quiet_ms: f64,
    busy_ms: f64,
    times: f64,
    big: Histogram,
}

impl Seen {
    fn big_ms(&self) -> f64 {
        self.big.quantile(0.5).as_secs_f64() * 1e3
    }

    fn row(&self, way: String, from: &str) -> [String; 7] {
        [
            way,
            from.to_owned(),
            format!("{:.3}", self.quiet_ms),
            format!("{:.3}", self.busy_ms),
            format!("{:.2}", self.times),
            format!("{:.1}", self.big_ms()),
            self.big.len().to_string(),
        ]
    }
}

async fn observe(
    settings: &Settings,
    rig: &Rig,
    which: Which,
    via: Via,
    front: Front,
    report: &mut Report,
) -> anyhow::Result<Seen> {
    let plan = settings.plan(rig, via, front, AGENTS, Drive::OpenLoop { rate: RATE })?;
    let (mut quiet, mut busy, mut big) = (Vec::new(), Vec::new(), Histogram::default());
    for _ in 0..settings.pairs {
        quiet.push(load::run(&plan, &[]).await?);
        let asker = Asker::start(rig.target_of(which, via, front)?);
        let outcome = load::run(&plan, &[]).await;
        big.merge(&asker.finish()?);
        busy.push(outcome?);
    }
    for outcome in quiet.iter().chain(&busy) {
        report.count(&outcome.tally, &format!("8 MiB results, {}", via.name(front)));
    }
    anyhow::ensure!(!big.is_empty(), "no large result came through {}", via.name(front));
    Ok(Seen {
        quiet_ms: median(quiet.iter().map(|o| quantile_ms(o, 0.99))),
        busy_ms: median(busy.iter().map(|o| quantile_ms(o, 0.99))),
        times: paired(&busy, &quiet, |busy, quiet| quantile_ms(busy, 0.99) / quantile_ms(quiet, 0.99)),
        big,
    })
}

/// The agent that asks for large results, on a thread of its own so that it does not delay the others here.
struct Asker {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<anyhow::Result<Histogram>>,
}

impl Asker {
    fn start(target: Target) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            // Without it the measure is harder on the gateway, not easier.
            let _ = Rank::Behind.take();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask(&target, &seen))
        });
        Self { stop, thread }
    }

    fn finish(self) -> anyhow::Result<Histogram> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that asks for large results panicked"))?
    }
}

async fn ask(target: &Target, stop: &AtomicBool) -> anyhow::Result<Histogram> {
    let failed = |failure: load::Failure| anyhow::anyhow!("a large result failed: {failure}");
    let mut agent = Agent::open(target, u64::MAX).await.map_err(failed)?;
    let mut latency = Histogram::default();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        tokio::time::timeout(PATIENCE, agent.call(Work::Big(SIZE))).await?.map_err(failed)?;
        latency.record(begin.elapsed());
    }
    Ok(latency)
}
