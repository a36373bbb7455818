//! One measurement: many agents for a fixed time, in a closed loop, a session per call, or at a fixed rate.
//!
//! The subtle thing is the open loop: a pacer thread decides when each call is due, and its latency counts from that
//! moment, also when its agent was still busy; a slow target cannot slow the clock it is measured with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet, time};

use super::{
    agent::{Agent, Target},
    check::{Failure, Work},
    histogram::Histogram,
};
use crate::process::CpuMeter;

/// How long agents may take to open their sessions, and a call to end after the measured time.
const PATIENCE: Duration = Duration::from_secs(20);
/// Calls an open-loop agent may be behind before they are dropped and counted as failed.
const BACKLOG: usize = 4096;
/// After so many failures an agent gives up.
const MAX_FAILURES: u64 = 100;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to call.
    pub target: Target,
    /// How many agents.
    pub agents: usize,
    /// When they call.
    pub drive: Drive,
    /// What is not counted at the start.
    pub warmup: Duration,
    /// What is counted.
    pub measured: Duration,
}

/// When agents call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// Each agent opens one session, and calls again as soon as it is answered.
    Reuse,
    /// Each call is connect, initialize, initialized, call, close.
    PerCall,
    /// So many calls per second over all agents, due at fixed times.
    OpenLoop {
        /// Calls per second.
        rate: u32,
    },
}

/// What the agents saw in the measured time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Latencies of right answers.
    pub latency: Histogram,
    /// Right answers that came within the measured time.
    pub answered: u64,
    /// Answers that belong to another call.
    pub wrong: u64,
    /// Calls without an answer; failures of the warm-up count too.
    pub failed: u64,
    /// The first failure, in words.
    pub first_failure: Option<String>,
}

/// The result of one measurement.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the agents saw.
    pub tally: Tally,
    /// How long was really measured.
    pub measured: Duration,
    /// CPU seconds of each metered process within it.
    pub cpu: Vec<f64>,
}

impl Outcome {
    /// Right answers per second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn throughput(&self) -> f64 {
        self.tally.answered as f64 / self.measured.as_secs_f64()
    }

    /// CPU seconds of a metered process per 1,000 calls.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn cpu_per_1000(&self, meter: usize) -> Option<f64> {
        let cpu = self.cpu.get(meter)?;
        (self.tally.answered > 0).then(|| cpu * 1000.0 / self.tally.answered as f64)
    }
}

impl Tally {
    fn fail(&mut self, failure: &Failure) {
        match failure {
            Failure::Wrong(_) => self.wrong += 1,
            Failure::Io(_) | Failure::Status(..) | Failure::Rpc(_) => self.failed += 1,
        }
        self.first_failure.get_or_insert_with(|| failure.to_string());
    }

    fn lost(&mut self, count: u64, reason: &str) {
        if count > 0 {
            self.failed += count;
            self.first_failure.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Adds what others saw.
    pub fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.answered += other.answered;
        self.wrong += other.wrong;
        self.failed += other.failed;
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
    }
}

/// The measured part of a run.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    to: Instant,
}

impl Window {
    fn record(&self, tally: &mut Tally, due: Instant, result: Result<(), Failure>) {
        let now = Instant::now();
        match result {
            Ok(()) => {
                if due >= self.from && due < self.to {
                    tally.latency.record(now - due);
                }
                if now >= self.from && now < self.to {
                    tally.answered += 1;
                }
            }
            Err(failure) => tally.fail(&failure),
        }
    }
}

/// Runs one measurement and meters the processes named.
///
/// # Errors
/// When the agents cannot open their sessions.
pub async fn run(plan: &Plan, meters: &[CpuMeter]) -> anyhow::Result<Outcome> {
    let agents = open_all(plan).await?;
    let from = Instant::now() + plan.warmup;
    let window = Window { from, to: from + plan.measured };
    let pacer = match plan.drive {
        Drive::OpenLoop { rate } => Some(Pacer::start(plan, rate, window)),
        Drive::Reuse | Drive::PerCall => None,
    };
    let (queues, pacer) = pacer.map_or((Vec::new(), None), |(queues, pacer)| (queues, Some(pacer)));
    let mut queues = queues.into_iter();
    let mut tasks = JoinSet::new();
    for agent in agents {
        tasks.spawn(drive(plan.clone(), agent, window, queues.next()));
    }
    time::sleep_until(window.from.into()).await;
    let (begin, before) = (Instant::now(), read(meters));
    time::sleep_until(window.to.into()).await;
    let (end, after) = (Instant::now(), read(meters));
    let mut tally = Tally::default();
    while let Some(done) = tasks.join_next().await {
        tally.merge(done?);
    }
    if let Some(pacer) = pacer {
        tally.lost(pacer.finish(), "the agents were more calls behind than they may be");
    }
    let cpu = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    Ok(Outcome { tally, measured: end - begin, cpu })
}

fn read(meters: &[CpuMeter]) -> Vec<f64> {
    meters.iter().map(CpuMeter::seconds).collect()
}

/// An agent before its first call; `PerCall` agents have no session yet.
struct Ready {
    key: u64,
    agent: Option<Agent>,
}

async fn open_all(plan: &Plan) -> anyhow::Result<Vec<Ready>> {
    let base = fresh_key();
    let mut opening = JoinSet::new();
    for index in 0..plan.agents as u64 {
        let target = plan.target.clone();
        let wants_session = plan.drive != Drive::PerCall;
        opening.spawn(async move {
            let key = base ^ (index << 20);
            let agent = if wants_session { Some(Agent::open(&target, key).await?) } else { None };
            Ok::<_, Failure>(Ready { key, agent })
        });
    }
    let all = async {
        let mut ready = Vec::new();
        while let Some(opened) = opening.join_next().await {
            ready.push(opened?.map_err(|failure| anyhow::anyhow!("an agent cannot start: {failure}"))?);
        }
        anyhow::Ok(ready)
    };
    time::timeout(PATIENCE, all).await.map_err(|_| anyhow::anyhow!("agents cannot start in {PATIENCE:?}"))?
}

/// A key no earlier run of this machine used.
fn fresh_key() -> u64 {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or_default();
    nanos ^ (RUN.fetch_add(1, Ordering::Relaxed) << 48)
}

async fn drive(plan: Plan, ready: Ready, window: Window, queue: Option<mpsc::Receiver<Instant>>) -> Tally {
    let mut tally = Tally::default();
    let calls = async {
        match (plan.drive, queue) {
            (Drive::OpenLoop { .. }, Some(queue)) => {
                paced(&plan.target, ready, window, queue, &mut tally).await
            }
            (Drive::PerCall, _) => per_call(&plan.target, ready.key, window, &mut tally).await,
            (Drive::Reuse | Drive::OpenLoop { .. }, _) => {
                reuse(&plan.target, ready, window, &mut tally).await
            }
        }
    };
    if time::timeout_at((window.to + PATIENCE).into(), calls).await.is_err() {
        tally.lost(1, "a call was not answered");
    }
    tally
}

async fn reuse(target: &Target, ready: Ready, window: Window, tally: &mut Tally) {
    let mut agent = ready.agent;
    while tally.failed + tally.wrong < MAX_FAILURES {
        let due = Instant::now();
        if due >= window.to {
            return;
        }
        let result = call(target, ready.key, &mut agent).await;
        window.record(tally, due, result);
    }
}

async fn per_call(target: &Target, key: u64, window: Window, tally: &mut Tally) {
    for round in 0.. {
        let due = Instant::now();
        if due >= window.to || tally.failed + tally.wrong >= MAX_FAILURES {
            return;
        }
        let result = async {
            let mut agent = Agent::open(target, key.wrapping_add(round)).await?;
            agent.call(Work::Echo).await?;
            agent.close().await
        };
        let result = result.await;
        window.record(tally, due, result);
    }
}

async fn paced(
    target: &Target,
    ready: Ready,
    window: Window,
    mut queue: mpsc::Receiver<Instant>,
    tally: &mut Tally,
) {
    let mut agent = ready.agent;
    while let Some(due) = queue.recv().await {
        let result = call(target, ready.key, &mut agent).await;
        window.record(tally, due, result);
        if tally.failed + tally.wrong >= MAX_FAILURES {
            return;
        }
    }
}

/// A call on the agent's session; after a failure the next call opens a new one.
async fn call(target: &Target, key: u64, slot: &mut Option<Agent>) -> Result<(), Failure> {
    let mut agent = match slot.take() {
        Some(agent) => agent,
        None => Agent::open(target, key).await?,
    };
    agent.call(Work::Echo).await?;
    *slot = Some(agent);
    Ok(())
}

/// The thread that says when calls are due: a timer of the runtime is only good to a millisecond.
struct Pacer {
    thread: thread::JoinHandle<()>,
    dropped: Arc<AtomicU64>,
}

impl Pacer {
    fn start(plan: &Plan, rate: u32, window: Window) -> (Vec<mpsc::Receiver<Instant>>, Self) {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..plan.agents.max(1)).map(|_| mpsc::channel(BACKLOG)).unzip();
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        let step = Duration::from_secs(1) / rate.max(1);
        let thread = thread::spawn(move || {
            let mut due = Instant::now();
            for sender in senders.iter().cycle() {
                if due >= window.to {
                    return;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if sender.try_send(due).is_err() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                due += step;
            }
        });
        (receivers, Self { thread, dropped })
    }

    /// How many calls were never made.
    fn finish(self) -> u64 {
        // The agents have ended, so the thread has dropped its ends of their queues and is about to.
        let _ = self.thread.join();
        self.dropped.load(Ordering::Relaxed)
    }
}
