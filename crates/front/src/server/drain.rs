//! The drain: what happens between the order to stop and the last task.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_wire::Backends;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    server::Drained,
    session::{Front, agent::StopReason},
    shared::Common,
    stateless::Stateless,
};

/// Between two looks at what a drain still waits for.
pub(super) const DRAIN_STEP: Duration = Duration::from_millis(20);
/// Of the drain time, for answering the calls that do not end within it: at most this, and at most a tenth.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long answers of the last moment may take to be written in any case.
const LATE: Duration = Duration::from_millis(250);
/// How long dropped tasks may take to be gone.
const LAST_WAIT: Duration = Duration::from_secs(1);

pub(super) async fn drain<B: Backends>(
    front: &Front<B>,
    stateless: &Stateless<B::Link>,
    stop: &CancellationToken,
) -> Drained {
    let common = &front.common;
    common.start_draining();
    stop.cancel();
    front.agents.stop_calls(StopReason::UnlessSent);
    stateless.links.stop_calls(StopReason::UnlessSent);
    let time = common.times().drain;
    let last_words = LAST_WORDS.min(time / 10);
    let deadline = Instant::now() + time;
    until_empty(front, stateless, deadline - last_words).await;
    let cut = still_open(common).calls;
    if cut > 0 {
        front.agents.stop_calls(StopReason::Now);
        stateless.links.stop_calls(StopReason::Now);
        stateless.parked.end_all(common);
        until_empty(front, stateless, deadline.max(Instant::now() + LATE)).await;
    }
    let left = Drained { calls: cut, ..still_open(common) };
    let late = Instant::now() + LATE;
    while common.late.load(Ordering::Relaxed) > 0 && Instant::now() < late {
        tokio::time::sleep(DRAIN_STEP).await;
    }
    common.kill.cancel();
    front.agents.remove_all();
    stateless.links.remove_all();
    front.tasks.close();
    if tokio::time::timeout(LAST_WAIT, front.tasks.wait()).await.is_err() {
        tracing::warn!(tasks = front.tasks.len(), "tasks of the front did not end");
    }
    left
}

/// Waits until there are no calls any more and no connections of before, or for the deadline.
async fn until_empty<B: Backends>(front: &Front<B>, stateless: &Stateless<B::Link>, deadline: Instant) {
    while still_open(&front.common) != Drained::default() && Instant::now() < deadline {
        front.agents.close_idle_streams();
        stateless.listeners.end_all();
        tokio::time::sleep(DRAIN_STEP.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// What a drain waits for. Connections that came while it lasts ask for nothing that is waited for: a balancer that looks
/// whether somebody is there would hold it up for ever.
fn still_open(common: &Common) -> Drained {
    let gauges = &common.gauges;
    let connections = gauges.connections.load(Ordering::Relaxed);
    let late = common.late.load(Ordering::Relaxed);
    Drained { connections: connections.saturating_sub(late), calls: gauges.calls.load(Ordering::Relaxed) }
}
