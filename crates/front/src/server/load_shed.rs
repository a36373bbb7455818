//! Load shedding: closes agents when memory is short, so that the gateway recovers by itself. First goes what is stored
//! for a resume, then the slow readers that hold the most bytes.
//!
//! An agent that reads a few bytes at a time is never stuck, only slow. After a while on one level the readers that hold
//! the most bytes are therefore closed whether they are stuck or not.

use std::{sync::Arc, time::Duration};

use mcpool_wire::Backends;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    limits::pressure::PressureLevel,
    observe::FrontEvent,
    session::Front,
    stateless::{CallOutput, Stateless},
    stream::{connection::ConnectionState, outbox::Outbox},
};

/// Time between two checks.
const PERIOD: Duration = Duration::from_millis(100);
/// A reader with fewer unread bytes is never closed.
const MIN_BYTES: usize = 4 << 10;

/// An agent that leaves bytes unread.
enum SlowReader {
    /// A stream and its queue.
    Stream(Arc<Outbox>),
    /// A connection and the bytes being written to it.
    Connection(Arc<ConnectionState>),
    /// A call that ended while it waited for its caller.
    Parked(Arc<CallOutput>),
}

/// Times on one pressure level: how long a reader may be stuck, and after how long on the level any reader may be closed.
struct Thresholds {
    stuck: Option<Duration>,
    all: Duration,
}

/// Sheds load whenever memory is short; runs beside the accept loop.
pub(crate) async fn run<B: Backends>(front: &Front<B>, stateless: &Stateless<B::Link>) {
    let memory = &front.common.memory;
    loop {
        memory.left_calm().await;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut level, mut since) = (PressureLevel::Calm, Instant::now());
        while !memory.is_calm() {
            ticks.tick().await;
            memory.settle();
            if memory.pressure() != level {
                (level, since) = (memory.pressure(), Instant::now());
            }
            shed(front, stateless, level, since.elapsed());
        }
    }
}

fn shed<B: Backends>(
    front: &Front<B>,
    stateless: &Stateless<B::Link>,
    level: PressureLevel,
    on_it: Duration,
) {
    let Some(thresholds) = Thresholds::on(level) else { return };
    let common = &front.common;
    if level >= PressureLevel::Refusing && front.agents.forget_replays() {
        common.memory.shed("replay_forgotten");
    }
    let stuck = if on_it >= thresholds.all { Some(Duration::ZERO) } else { thresholds.stuck };
    let Some(stuck) = stuck else { return };
    let anybody = on_it >= thresholds.all;
    let mut held = common.memory.held();
    for (owes, reader) in slow_readers(front, stateless, stuck, anybody) {
        if held < level.left_at(common.memory.limit()) {
            return;
        }
        if !reader.let_go() {
            continue;
        }
        held = held.saturating_sub(owes);
        common.emit(&FrontEvent::SlowAgentClosed);
        common.memory.shed("agent_closed");
    }
}

/// The readers that may be closed, those with the most unread bytes first.
fn slow_readers<B: Backends>(
    front: &Front<B>,
    stateless: &Stateless<B::Link>,
    stuck: Duration,
    anybody: bool,
) -> Vec<(usize, SlowReader)> {
    let unbound = stateless.links.outboxes().into_iter().chain(stateless.listeners.outboxes());
    let streams = front
        .agents
        .outboxes()
        .into_iter()
        .chain(unbound)
        .map(|outbox| (outbox.owes(), SlowReader::Stream(outbox)));
    let connections: Vec<_> =
        front.common.connections.iter().map(|entry| Arc::clone(entry.value())).collect();
    let connections =
        connections.into_iter().map(|connection| (connection.owes(), SlowReader::Connection(connection)));
    let parked =
        stateless.parked.owing().into_iter().map(|(owes, output)| (owes, SlowReader::Parked(output)));
    let mut all: Vec<_> = streams
        .chain(connections)
        .chain(parked)
        .filter(|(owes, reader)| *owes >= MIN_BYTES && (anybody || reader.is_stuck(stuck)))
        .collect();
    all.sort_unstable_by_key(|(owes, _)| std::cmp::Reverse(*owes));
    all
}

impl SlowReader {
    fn is_stuck(&self, since: Duration) -> bool {
        match self {
            Self::Stream(outbox) => outbox.is_stuck(since),
            Self::Connection(connection) => connection.is_stuck(since),
            // It has no reader.
            Self::Parked(_) => true,
        }
    }

    /// Closes the reader. `false` for a connection that is ending already, with a stream that was closed before it.
    fn let_go(self) -> bool {
        match self {
            Self::Stream(outbox) => {
                outbox.let_go();
                true
            }
            Self::Connection(connection) => connection.cut(),
            Self::Parked(output) => {
                output.let_go();
                true
            }
        }
    }
}

impl Thresholds {
    fn on(level: PressureLevel) -> Option<Self> {
        let (stuck, all) = match level {
            PressureLevel::Calm => return None,
            PressureLevel::Holding => (None, 30_000),
            PressureLevel::Refusing => (Some(Duration::from_secs(1)), 10_000),
            PressureLevel::Shedding => (Some(Duration::from_millis(250)), 2_000),
        };
        Some(Self { stuck, all: Duration::from_millis(all) })
    }
}
