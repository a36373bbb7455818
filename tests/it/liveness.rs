//! Silence that is no death: backends that block (F9), backends that ping and close (F15), agents that vanish in a
//! long call (F10).

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mcpool_testkit::{
    CancelAnswer, PingKiller, Script, Server,
    agent::{Agent, Transport},
};
use mcpool_upstream::{
    Limits, ModeChoice,
    transport::memory::{Memory, Turn},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use crate::{
    lab::{Lab, Wish},
    rig::Rig,
    wires::{PAIRS, agent, config, echoes, over, rig, serve, text_of, until, wanted},
};

/// A backend of one thread: while the tool `block` runs, nothing else is answered, pings included.
fn one_thread() -> Memory {
    let blocked = Arc::new(Mutex::new(Instant::now()));
    Memory::new(move |turn: Turn| {
        let blocked = blocked.clone();
        async move {
            let message: Value = serde_json::from_slice(&turn.message).unwrap_or_default();
            if message["params"]["name"] == "block" {
                *blocked.lock().expect("not poisoned") = Instant::now() + BLOCK;
            }
            let until = *blocked.lock().expect("not poisoned");
            tokio::time::sleep_until(until).await;
            turn.reply().into_iter().collect()
        }
    })
}

const BLOCK: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_blocked_backend_loses_no_session() {
    for in_exchange in [false, true] {
        for mode in [ModeChoice::Shared, ModeChoice::Pinned] {
            let memory = if in_exchange { one_thread().answering_in_exchange() } else { one_thread() };
            let limits = Limits { min_idle: 0, shared_sessions: 1, ..Limits::default() };
            let lab = Lab::start(memory, Wish { mode, limits, ..Wish::default() });
            let (one, two) = (lab.agent(1).await, lab.agent(2).await);
            two.run("echo", &json!({})).await.expect("served");
            let opened = lab.memory.sessions().len();
            let arguments = json!({});
            let block = one.run("block", &arguments);
            // Comes in the middle and waits; its own patience is longer than the block.
            let other = async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                two.run("write", &json!({})).await
            };
            let (blocked, waited) = tokio::join!(block, other);
            let what = format!("{mode:?}, in the exchange {in_exchange}: {:?}", lab.seen.lines());
            blocked.expect(&what);
            waited.expect(&what);
            assert_eq!(lab.memory.sessions().len(), opened, "{what}");
            assert_eq!(
                (lab.seen.count("closed_by_incident"), lab.seen.count("transition")),
                (0, 0),
                "{what}"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(lab.standings().iter().all(|standing| *standing == "ready"), "{:?}", lab.standings());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_a_blocked_backend() {
    for (front, back) in PAIRS {
        let server = serve(Script { state_tools: true, ..Script::default() }).await;
        let mut wanted = wanted(&server, back, ModeChoice::Shared);
        wanted.times.probe_interval = Duration::from_millis(300);
        wanted.times.probe_timeout = Duration::from_millis(100);
        wanted.limits.shared_sessions = 1;
        let rig = Rig::start(wanted).await;
        let agent = agent(&rig, front).await;
        let opened = server.stats().sessions_opened;
        let hasty = config(&rig, front).with_timeout(Duration::from_millis(1_000));
        let hasty = Agent::ready(hasty).await.expect("an agent");
        let mut block = agent.start_tool("block", json!({ "ms": 3_000 })).expect("started");
        until("it blocks", || server.stats().in_flight > 0).await;
        // One gives up by itself, one waits, one only just arrives.
        let gave_up = hasty.call_tool("echo", json!({ "nonce": "hasty" }));
        let late = async { echoes(&crate::wires::agent(&rig, front).await, "late").await };
        let (gave_up, (), ()) = tokio::join!(gave_up, echoes(&agent, "patient"), late);
        gave_up.expect_err("its own patience is over");
        assert_eq!(text_of(&block.finish().await.expect("answered")), "unblocked");
        let events = rig.seen.events.lock().expect("not poisoned").clone();
        assert!(!events.iter().any(|event| event.contains("Closed")), "{front:?} {back:?}: {events:?}");
        assert_eq!(server.stats().sessions_opened, opened);
        assert!(rig.seen.transitions.lock().expect("not poisoned").is_empty());
        over(rig).await;
    }
}

/// How often the backend was answered.
fn answers(lab: &Lab) -> usize {
    let is_answer =
        |sent: &[u8]| serde_json::from_slice::<Value>(sent).is_ok_and(|m| m["result"] == json!({}));
    lab.memory.last().sent().iter().filter(|sent| is_answer(sent)).count()
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_pings_is_answered() {
    for mode in [ModeChoice::Shared, ModeChoice::Pinned] {
        let mut wish = Wish { mode, ..Wish::default() };
        // Nobody calls for an hour; the session is to be lost by its pings or not at all.
        (wish.times.idle, wish.times.max_age) = (Duration::from_secs(7_200), Duration::from_secs(7_200));
        let lab = Lab::start(Memory::echo(), wish);
        let agent = lab.agent(1).await;
        agent.run("echo", &json!({})).await.expect("served");
        for n in 1..=1_200 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let ping = json!({ "jsonrpc": "2.0", "id": format!("ping-{n}"), "method": "ping" });
            lab.memory.last().say(ping.to_string());
            let took = lab.until("the ping is answered", |lab| answers(lab) == n).await;
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
        agent.run("echo", &json!({})).await.expect("served");
        assert_eq!(lab.memory.sessions().len(), 1, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_pings_and_closes_loses_no_session() {
    let ping = PingKiller { every: Duration::from_millis(30), within: Duration::from_secs(2) };
    for mode in [ModeChoice::Shared, ModeChoice::Pinned] {
        for (front, back) in PAIRS {
            let server = serve(Script { ping_killer: Some(ping), ..Script::playwright() }).await;
            let rig = rig(&server, back, mode).await;
            let agent = agent(&rig, front).await;
            echoes(&agent, "before it sleeps").await;
            let (opened, answered) = (server.stats().sessions_opened, server.stats().requests_of("response"));
            until("many pings", || server.stats().requests_of("response") > answered + 20).await;
            echoes(&agent, "awake").await;
            let stats = server.stats();
            assert_eq!(
                (stats.pings_missed, stats.sessions_opened),
                (0, opened),
                "{mode:?} {front:?} {back:?}"
            );
            over(rig).await;
        }
    }
}

/// A call on a connection that then breaks without a goodbye.
async fn vanish_in_a_call(rig: &Rig, server: &Server, front: Transport, ms: u64) -> Option<Agent> {
    let running = || server.stats().in_flight == 1;
    if front == Transport::Sse {
        let agent = agent(rig, front).await;
        let call = agent.start_tool("sleep", json!({ "ms": ms })).expect("started");
        until("it runs", running).await;
        drop((call, agent));
        return None;
    }
    let agent = agent(rig, front).await;
    let params = json!({ "name": "sleep", "arguments": { "ms": ms } });
    let body = json!({ "jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": params }).to_string();
    let session = agent.session_id().expect("a session");
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         mcp-session-id: {session}\r\ncontent-length: {}\r\n\r\n",
        rig.addr,
        body.len()
    );
    let mut stream = TcpStream::connect(rig.addr).await.expect("connected");
    stream.write_all((head + &body).as_bytes()).await.expect("written");
    until("it runs", running).await;
    // Unsent data dropped, a reset instead of an end.
    stream.set_zero_linger().expect("set");
    drop(stream);
    Some(agent)
}

fn patient(rig: &mut crate::rig::Wanted, window: Duration) {
    (rig.front.orphan, rig.front.reconnect_grace) = (window, window);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_agent_vanished_runs_to_its_end() {
    for (front, back) in PAIRS {
        let server = serve(Script::default()).await;
        let mut wanted = wanted(&server, back, ModeChoice::Shared);
        patient(&mut wanted, Duration::from_secs(20));
        (wanted.limits.shared_sessions, wanted.limits.calls_per_session) = (1, 1);
        let rig = Rig::start(wanted).await;
        let left = vanish_in_a_call(&rig, &server, front, 1_500).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(rig.held().0, 1, "{front:?} {back:?}: the slot is still the call's");
        // The only slot comes back with the answer, and not before.
        echoes(&crate::wires::agent(&rig, front).await, "next").await;
        assert_eq!(server.stats().in_flight, 0);
        assert_eq!(server.stats().cancels, 0, "nobody cancelled it");
        if let Some(agent) = left {
            echoes(&agent, "back on another connection").await;
        }
        rig.idle().await;
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_agent_stays_away_is_cancelled_after_the_window() {
    for (front, back) in PAIRS {
        let server = serve(Script { cancel_answer: CancelAnswer::Error, ..Script::default() }).await;
        let mut wanted = wanted(&server, back, ModeChoice::Shared);
        patient(&mut wanted, Duration::from_millis(500));
        let rig = Rig::start(wanted).await;
        let begun = std::time::Instant::now();
        let _agent = vanish_in_a_call(&rig, &server, front, 120_000).await;
        until("it is cancelled", || server.stats().cancels == 1).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(450),
            "{front:?} {back:?}: not before the window is over"
        );
        rig.idle().await;
        assert_eq!((server.stats().cancels, server.stats().in_flight), (1, 0));
        rig.stop().await;
    }
}
