//! What an operator does to a backend that runs: pause, resume, reconnect, drain. On a clock that stands still, and
//! over real sockets under load.

mod live;
mod reconnect;
mod rest;

use std::time::Duration;

use futures::future::join_all;
use mcpool_router::verbs::{Done, Verb};
use mcpool_upstream::Limits;

use crate::lab::{Agent, Lab, Wish};

/// One or more sessions of this many slots.
fn wish(sessions: usize, slots: usize) -> Wish {
    let limits =
        Limits { min_idle: 1, shared_sessions: sessions, calls_per_session: slots, ..Limits::default() };
    Wish { limits, ..Wish::default() }
}

async fn ready(wish: Wish, agents: u64) -> (Lab, Vec<Agent>) {
    let lab = Lab::scripted(wish);
    let agents = join_all((1..=agents).map(|number| lab.agent(number))).await;
    lab.until("a session", |lab| lab.standings().contains(&"ready")).await;
    (lab, agents)
}

impl Lab {
    async fn perform(&self, verb: Verb) -> Done {
        self.registered.perform(verb, Duration::from_secs(60)).await
    }

    fn state(&self) -> &'static str {
        self.registered.state().0
    }

    /// How many messages the backend got so far.
    fn sent(&self) -> usize {
        self.memory.sessions().iter().map(|session| session.sent().len()).sum()
    }
}
