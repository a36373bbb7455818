//! Agents that go away while they arrive (C3): the opening of a link is dropped after each of its polls, and the
//! connections of an agent at each step of its conversation. Whatever was taken must come back.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use mcpool_testkit::{
    Script,
    agent::{Agent, Transport},
};
use mcpool_upstream::{Limits, ModeChoice};
use serde_json::{Value, json};

use crate::{
    lab::{Lab, Wish},
    rig::Rig,
    wires::{PAIRS, config, serve, until, wanted},
};

/// Polls a future at most so often; `None` if it was dropped then.
async fn for_polls<T>(polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut done = 0;
    poll_fn(move |cx| {
        if done == polls {
            return Poll::Ready(None);
        }
        done += 1;
        match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if done == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// What is held on behalf of agents; warm sessions are nobody's.
fn is_empty(lab: &Lab, places: usize) -> bool {
    let held = lab.held();
    let agents = lab.registered.backend.status().agents;
    (held.in_flight, held.pending, held.waiting, agents) == (0, 0, 0, 0) && held.places <= places
}

#[tokio::test(start_paused = true)]
async fn a_shared_opening_dropped_anywhere_leaves_nothing_and_the_handshake_goes_on() {
    for polls in 0..100 {
        let limits = Limits { min_idle: 0, ..Limits::default() };
        let lab = Lab::scripted(Wish { limits, ..Wish::default() });
        lab.memory.delay_connects(Duration::from_millis(200));
        let opened = for_polls(polls, lab.try_agent(1, None, json!({}))).await;
        let is_open = opened.is_some();
        drop(opened);
        lab.until("nothing is held", |lab| is_empty(lab, 1)).await;
        // Whoever comes next is served, by the same handshake or by one of its own.
        let next = lab.agent(2).await;
        next.run("echo", &json!({})).await.expect("served");
        assert!(lab.memory.sessions().len() <= 2, "{} sessions", lab.memory.sessions().len());
        if is_open {
            assert!(polls >= 2, "only {polls} polls: it did not wait for the handshake");
            return;
        }
    }
    panic!("it never opened");
}

/// An agent that needs its own session, while the only place is taken by another for a while.
async fn open_pinned(lab: &Lab, polls: usize) -> bool {
    let able = json!({ "sampling": {} });
    let first = lab.try_agent(1, None, able.clone()).await.expect("the only place");
    lab.memory.delay_connects(Duration::from_millis(200));
    let leave = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(first);
    };
    let (opened, ()) = tokio::join!(for_polls(polls, lab.try_agent(2, None, able)), leave);
    opened.is_some_and(|link| {
        drop(link.expect("a session"));
        true
    })
}

#[tokio::test(start_paused = true)]
async fn a_pinned_opening_dropped_anywhere_gives_its_place_back() {
    for polls in 0..100 {
        let limits = Limits { min_idle: 0, max_sessions: 1, ..Limits::default() };
        let lab = Lab::scripted(Wish { limits, mode: ModeChoice::Pinned, ..Wish::default() });
        let is_open = open_pinned(&lab, polls).await;
        lab.until("nothing is held", |lab| is_empty(lab, 0)).await;
        lab.agent(3).await.run("echo", &json!({})).await.expect("the only place is free");
        if is_open {
            assert!(polls >= 2, "only {polls} polls: it did not wait");
            return;
        }
    }
    panic!("it never opened");
}

/// The handshake runs in the opener's task, not in the agent's future: the agent leaves at each moment of it.
#[tokio::test(start_paused = true)]
async fn a_pinned_opening_dropped_at_any_rung_of_the_handshake_gives_its_place_back() {
    let (mut left_early, mut opened) = (0, 0);
    for millis in 0..60 {
        let limits = Limits { min_idle: 0, max_sessions: 1, ..Limits::default() };
        let lab = Lab::start(slow(), Wish { limits, mode: ModeChoice::Pinned, ..Wish::default() });
        let opening = lab.try_agent(1, None, json!({ "sampling": {} }));
        match tokio::time::timeout(Duration::from_millis(millis), opening).await {
            Ok(link) => {
                link.expect("a session");
                opened += 1;
            }
            Err(_) => left_early += 1,
        }
        lab.until("nothing is held", |lab| is_empty(lab, 0)).await;
        lab.agent(2).await.run("echo", &json!({})).await.expect("the only place is free");
    }
    // initialize, initialized, ping and list take 10 ms each; some runs must end after them.
    assert!(left_early >= 30 && opened >= 5, "{left_early} left in the middle, {opened} opened");
}

/// A backend that takes 10 ms for whatever it is told.
fn slow() -> mcpool_upstream::transport::memory::Memory {
    mcpool_upstream::transport::memory::Memory::new(|turn| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        turn.reply().into_iter().collect()
    })
}

/// Steps of a conversation after which an agent may be gone.
const STEPS: [&str; 7] =
    ["connected", "initializing", "initialize", "initialized", "stream", "calling", "progress"];

/// Talks up to and including this step, then drops every connection at once.
async fn leave_after(rig: &Rig, front: Transport, step: usize) {
    let able: Value = if step.is_multiple_of(2) { json!({}) } else { json!({ "sampling": {} }) };
    let agent = Agent::connect(config(rig, front).with_capabilities(able)).await.expect("connected");
    if step == 1 {
        let opening = agent.initialize_only();
        drop(tokio::time::timeout(Duration::from_millis(20), opening).await);
    }
    if step >= 2 {
        agent.initialize_only().await.expect("greeted");
    }
    if step >= 3 {
        agent.initialized().await.expect("taken");
    }
    if step >= 4 && front == Transport::Http {
        agent.listen().await.expect("a stream");
    }
    if step >= 5 {
        let arguments = json!({ "steps": 10_000, "interval_ms": 5, "nonce": "left" });
        let mut call = agent.start_tool("progress", arguments).expect("started");
        if step >= 6 {
            call.progress().await.expect("it runs");
        }
        drop(call);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gone_at_any_step_leaves_nothing_behind() {
    for (front, back) in PAIRS {
        let handshake_delay = Duration::from_millis(50);
        let server = serve(Script { handshake_delay, ..Script::default() }).await;
        let mut wanted = wanted(&server, back, ModeChoice::Auto);
        wanted.front.orphan = Duration::from_millis(100);
        wanted.front.reconnect_grace = Duration::from_millis(100);
        wanted.times.cancel_grace = Duration::from_millis(500);
        let rig = Rig::start(wanted).await;
        for (step, name) in STEPS.iter().enumerate() {
            leave_after(&rig, front, step).await;
            rig.idle().await;
            if front == Transport::Sse {
                // One warm session of nobody; those that were agents' own are closed.
                let status = || rig.gateway.backends()[0].backend.status();
                until(name, || status().agents == 0 && status().sessions.len() <= 1).await;
                until(name, || server.stats().sessions_open <= 1 && server.stats().in_flight == 0).await;
            }
        }
        rig.stop().await;
    }
}
