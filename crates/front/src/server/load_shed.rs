//! What is let go when memory is short, so that the gateway comes back by itself: first what is kept for a resume, then
//! the most expensive of those who do not read.
//!
//! Somebody who reads by drops is never stuck, only slow; so the patience with everybody ends after a while, and then
//! the most expensive go first.

use std::{sync::Arc, time::Duration};

use mcpool_wire::Backends;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    limits::pressure::Rung,
    observe::FrontEvent,
    session::Front,
    stateless::{Stateless, Voice},
    stream::{connection::ConnectionState, outbox::Outbox},
};

/// Between two looks at who could be let go.
const PERIOD: Duration = Duration::from_millis(100);
/// Less than this is nobody's fault.
const WORTH: usize = 4 << 10;

/// Who keeps bytes waiting.
enum Debtor {
    /// A stream with what is queued for it.
    Stream(Arc<Outbox>),
    /// A connection with what is being written to it.
    Connection(Arc<ConnectionState>),
    /// A call that has ended while it waited for its caller.
    Parked(Arc<Voice>),
}

/// How long a connection may take in nothing on this rung, and after how long on it the most expensive go, stuck or
/// not.
struct Patience {
    stuck: Option<Duration>,
    all: Duration,
}

/// Runs beside the accept loop.
pub(crate) async fn run<B: Backends>(front: &Front<B>, stateless: &Stateless<B::Link>) {
    let budget = &front.common.budget;
    loop {
        budget.left_calm().await;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut rung, mut since) = (Rung::Calm, Instant::now());
        while !budget.is_calm() {
            ticks.tick().await;
            budget.settle();
            if budget.rung() != rung {
                (rung, since) = (budget.rung(), Instant::now());
            }
            relieve(front, stateless, rung, since.elapsed());
        }
    }
}

fn relieve<B: Backends>(front: &Front<B>, stateless: &Stateless<B::Link>, rung: Rung, on_it: Duration) {
    let Some(patience) = Patience::on(rung) else { return };
    let common = &front.common;
    if rung >= Rung::Refusing && front.agents.forget_replays() {
        common.budget.shed("replay_forgotten");
    }
    let stuck = if on_it >= patience.all { Some(Duration::ZERO) } else { patience.stuck };
    let Some(stuck) = stuck else { return };
    let anybody = on_it >= patience.all;
    let mut held = common.budget.held();
    for (owes, debtor) in debtors(front, stateless, stuck, anybody) {
        if held < rung.left_at(common.budget.limit()) {
            return;
        }
        if !debtor.let_go() {
            continue;
        }
        held = held.saturating_sub(owes);
        common.emit(&FrontEvent::SlowAgentClosed);
        common.budget.shed("agent_closed");
    }
}

/// Who could be let go, the most expensive first.
fn debtors<B: Backends>(
    front: &Front<B>,
    stateless: &Stateless<B::Link>,
    stuck: Duration,
    anybody: bool,
) -> Vec<(usize, Debtor)> {
    let unbound = stateless.links.outboxes().into_iter().chain(stateless.listeners.outboxes());
    let streams = front
        .agents
        .outboxes()
        .into_iter()
        .chain(unbound)
        .map(|outbox| (outbox.owes(), Debtor::Stream(outbox)));
    let connections: Vec<_> =
        front.common.connections.iter().map(|entry| Arc::clone(entry.value())).collect();
    let connections =
        connections.into_iter().map(|connection| (connection.owes(), Debtor::Connection(connection)));
    let parked = stateless.parked.owing().into_iter().map(|(owes, voice)| (owes, Debtor::Parked(voice)));
    let mut all: Vec<_> = streams
        .chain(connections)
        .chain(parked)
        .filter(|(owes, debtor)| *owes >= WORTH && (anybody || debtor.is_stuck(stuck)))
        .collect();
    all.sort_unstable_by_key(|(owes, _)| std::cmp::Reverse(*owes));
    all
}

impl Debtor {
    fn is_stuck(&self, since: Duration) -> bool {
        match self {
            Self::Stream(outbox) => outbox.is_stuck(since),
            Self::Connection(connection) => connection.is_stuck(since),
            // Nobody reads it.
            Self::Parked(_) => true,
        }
    }

    /// False for a connection that ends already, with a stream that was let go before it.
    fn let_go(self) -> bool {
        match self {
            Self::Stream(outbox) => {
                outbox.let_go();
                true
            }
            Self::Connection(connection) => connection.cut(),
            Self::Parked(voice) => {
                voice.let_go();
                true
            }
        }
    }
}

impl Patience {
    fn on(rung: Rung) -> Option<Self> {
        let (stuck, all) = match rung {
            Rung::Calm => return None,
            Rung::Holding => (None, 30_000),
            Rung::Refusing => (Some(Duration::from_secs(1)), 10_000),
            Rung::Shedding => (Some(Duration::from_millis(250)), 2_000),
        };
        Some(Self { stuck, all: Duration::from_millis(all) })
    }
}
