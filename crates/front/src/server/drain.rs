//! The drain: shutdown from the first signal to the last task.

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

/// Time between two checks whether the drain is complete.
pub(super) const DRAIN_STEP: Duration = Duration::from_millis(20);
/// Time reserved at the end of the drain to answer the calls that did not end; at most a tenth of the drain time.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Time in which the last answers may be written, even after the drain time.
const LATE: Duration = Duration::from_millis(250);
/// Longest wait for dropped tasks to end.
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

/// Waits until no call and no connection from before the drain is open, or until the deadline.
async fn until_empty<B: Backends>(front: &Front<B>, stateless: &Stateless<B::Link>, deadline: Instant) {
    while still_open(&front.common) != Drained::default() && Instant::now() < deadline {
        front.agents.close_idle_streams();
        stateless.listeners.end_all();
        tokio::time::sleep(DRAIN_STEP.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// The connections and calls that the drain waits for. Connections accepted during the drain do not count: the health
/// checks of a load balancer would hold it up for ever.
fn still_open(common: &Common) -> Drained {
    let gauges = &common.gauges;
    let connections = gauges.connections.load(Ordering::Relaxed);
    let late = common.late.load(Ordering::Relaxed);
    Drained { connections: connections.saturating_sub(late), calls: gauges.calls.load(Ordering::Relaxed) }
}
