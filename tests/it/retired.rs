//! Sessions that are retired while calls run on them end with their last call; who calls meanwhile is served by another.

use std::time::Duration;

use mcpool_upstream::{Limits, ModeChoice, SerialWrites};
use serde_json::{Value, json};

use crate::lab::{Agent, Lab, Wish, now};

/// Longer than `drain_timeout`, shorter than a silent call may be.
const LONG: u64 = 48_000;

fn wish(serial_writes: SerialWrites) -> Wish {
    let limits = Limits { min_idle: 0, shared_sessions: 1, serial_writes, ..Limits::default() };
    let mut wish = Wish { limits, mode: ModeChoice::Shared, ..Wish::default() };
    wish.times.max_age = Duration::from_secs(5);
    wish
}

async fn labs(serial_writes: SerialWrites) -> [(Lab, Agent, Agent); 2] {
    let (stream, exchange) =
        (Lab::scripted(wish(serial_writes)), Lab::scripted_in_exchange(wish(serial_writes)));
    let on_stream = (stream.agent(1).await, stream.agent(2).await);
    let in_exchange = (exchange.agent(1).await, exchange.agent(2).await);
    [(stream, on_stream.0, on_stream.1), (exchange, in_exchange.0, in_exchange.1)]
}

/// Calls once a second for as long as the long call runs; none waits.
async fn calls_beside(agent: &Agent, tool: &str) {
    for _ in 0..45 {
        let since = now();
        agent.run(tool, &json!({})).await.expect("served meanwhile");
        assert!(now() - since < Duration::from_secs(5), "{:?}", now() - since);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_old_or_to_be_replaced_ends_with_its_last_call() {
    for (lab, one, other) in labs(SerialWrites::Off).await {
        let arguments = json!({ "ms": LONG });
        let asked = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            lab.registered.backend.reconnect(false);
        };
        let (long, (), ()) = tokio::join!(one.run("write", &arguments), calls_beside(&other, "write"), asked);
        long.expect("it is not cut");
        assert!(lab.memory.sessions().len() >= 5, "replaced for their age all the same");
        lab.until("the old one is gone", |lab| lab.standings().len() <= 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_writes_run_one_at_a_time_a_long_write_holds_up_no_reader() {
    for (lab, one, other) in labs(SerialWrites::On).await {
        let (long, ()) =
            tokio::join!(one.start("write", &json!({ "ms": 25_000 })), calls_beside(&other, "echo"));
        long.expect("no panic").expect("it is not cut");
        lab.until("the old one is gone", |lab| lab.standings().len() <= 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_is_told_and_cancelled_at_the_backend() {
    for (lab, one, _other) in labs(SerialWrites::Off).await {
        let call = one.start("hang", &json!({}));
        lab.until("it is there", |lab| lab.held().in_flight == 1).await;
        let session = lab.memory.last();
        lab.registered.backend.cut();
        let error = call.await.expect("no panic").expect_err("it is cut");
        assert_eq!((error.kind.code(), error.executed.as_str()), (-31905, "maybe"));
        lab.until("it is gone", |lab| lab.held().places == 0).await;
        let sent: Vec<Value> =
            session.sent().iter().map(|m| serde_json::from_slice(m).expect("JSON")).collect();
        let id = sent.iter().find(|m| m["method"] == "tools/call").expect("sent")["id"].clone();
        let cancelled = sent.iter().filter(|m| m["method"] == "notifications/cancelled");
        assert_eq!(cancelled.map(|m| m["params"]["requestId"].clone()).collect::<Vec<_>>(), [id]);
    }
}
