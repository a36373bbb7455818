//! Writes one at a time on a shared session: in order, beside reads, within their deadlines, and never for nothing.

use std::time::Duration;

use futures::future::join_all;
use mcpool_upstream::{Limits, SerialWrites, Times, transport::memory::Memory};
use mcpool_wire::ErrorKind;
use serde_json::{Value, json};

use crate::lab::{Agent, Lab, Wish, now};

fn serial(slots: usize) -> Wish {
    let limits = Limits {
        min_idle: 1,
        shared_sessions: 1,
        calls_per_session: slots,
        serial_writes: SerialWrites::On,
        ..Limits::default()
    };
    Wish { limits, ..Wish::default() }
}

async fn ready(wish: Wish, agents: u64) -> (Lab, Vec<Agent>) {
    let lab = Lab::scripted(wish);
    let agents = join_all((1..=agents).map(|number| lab.agent(number))).await;
    lab.until("a session", |lab| lab.standings().contains(&"ready")).await;
    (lab, agents)
}

/// The numbers of the calls of a tool, in the order in which the backend got them.
fn order(memory: &Memory, tool: &str) -> Vec<u64> {
    let sent = memory.last().sent();
    let parsed = sent.iter().map(|sent| serde_json::from_slice::<Value>(sent).expect("JSON"));
    let of_tool = parsed.filter(|message| message["params"]["name"] == tool);
    of_tool.map(|message| message["params"]["arguments"]["n"].as_u64().expect("a number")).collect()
}

fn took(start: std::time::Instant) -> Duration {
    now().saturating_duration_since(start)
}

#[tokio::test(start_paused = true)]
async fn writes_run_one_at_a_time_in_order_of_arrival_and_reads_beside_them() {
    let (lab, agents) = ready(serial(8), 50).await;
    let start = now();
    let writes = join_all(agents.iter().enumerate().map(async |(n, agent)| {
        // One after another, so that there is an order of arrival.
        tokio::time::sleep(Duration::from_millis(n as u64)).await;
        agent.run("write", &json!({"n": n, "ms": 100})).await.expect("an answer");
    }));
    let reads = join_all(agents.iter().map(async |agent| {
        tokio::time::sleep(Duration::from_millis(60)).await;
        agent.run("echo", &json!({"ms": 10})).await.expect("an answer");
        took(start)
    }));
    let (_, read) = futures::join!(writes, reads);
    assert!(took(start) >= Duration::from_secs(5), "50 writes of 100 ms overlap: {:?}", took(start));
    assert!(
        took(start) < Duration::from_millis(5600),
        "they are slower than one at a time: {:?}",
        took(start)
    );
    assert!(read.iter().all(|read| *read < Duration::from_millis(400)), "reads wait for writes: {read:?}");
    assert_eq!(order(&lab.memory, "write"), (0..50).collect::<Vec<_>>());
    lab.until("rest", |lab| lab.held().in_flight == 0 && lab.held().waiting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_switch_writes_run_together() {
    let wish =
        Wish { limits: Limits { serial_writes: SerialWrites::Off, ..serial(8).limits }, ..Wish::default() };
    let (_lab, agents) = ready(wish, 8).await;
    let start = now();
    join_all(
        agents
            .iter()
            .map(|agent| async { agent.run("write", &json!({"ms": 100})).await.expect("an answer") }),
    )
    .await;
    assert!(took(start) < Duration::from_millis(200), "{:?}", took(start));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_write_keeps_the_turn_until_its_answer_or_the_grace() {
    let (lab, agents) = ready(serial(8), 2).await;
    for (tool, ms, grace) in [("write", 3000, 3), ("hang", 0, 10)] {
        let start = now();
        let arguments = json!({"ms": ms, "n": 0});
        let first = agents[0].run(tool, &arguments);
        assert!(tokio::time::timeout(Duration::from_millis(100), first).await.is_err(), "it takes longer");
        agents[1].run("write", &json!({"n": 1})).await.expect("an answer");
        let waited = took(start).as_secs_f64().round() as u64;
        assert_eq!(waited, grace, "the turn of a cancelled {tool} was given away");
    }
    lab.until("rest", |lab| lab.held().in_flight == 0 && lab.held().waiting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_within_its_deadline_and_leaves_its_place_to_the_next() {
    let wish = Wish { times: Times { queue: Duration::from_secs(1), ..Times::default() }, ..serial(8) };
    let (lab, agents) = ready(wish, 3).await;
    let arguments = json!({"ms": 1500, "n": 0});
    let long = agents[0].run("write", &arguments);
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        agents[1].run("write", &json!({"n": 1})).await.expect_err("its time is up")
    };
    let next = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        agents[2].run("write", &json!({"n": 2})).await.expect("an answer")
    };
    let (long, late, _) = futures::join!(long, late, next);
    long.expect("an answer");
    assert_eq!(late.kind, ErrorKind::QueueTimeout);
    assert_eq!(order(&lab.memory, "write"), [0, 2], "what timed out was never sent");
}

#[tokio::test(start_paused = true)]
async fn writes_and_reads_on_few_slots_all_come_through_whoever_leaves() {
    for slots in [1, 2, 3] {
        let (lab, agents) = ready(serial(slots), 20).await;
        join_all(agents.iter().enumerate().map(async |(n, agent)| {
            for round in 0..10_u64 {
                let seed = n as u64 * 31 + round * 17;
                let tool = if seed.is_multiple_of(3) { "echo" } else { "write" };
                let arguments = json!({"ms": seed % 7, "n": seed});
                let call = agent.run(tool, &arguments);
                if seed.is_multiple_of(5) {
                    let _ = tokio::time::timeout(Duration::from_millis(seed % 11), call).await;
                } else {
                    call.await.expect("an answer");
                }
            }
        }))
        .await;
        lab.until("rest", |lab| lab.held().in_flight == 0 && lab.held().waiting == 0).await;
    }
}
