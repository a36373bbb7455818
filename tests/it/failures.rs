//! Every way in which a call can fail behind the front, and what its error says: the kind, and whether the call ran.

use std::{collections::BTreeSet, time::Duration};

use mcpool_breaker::Settings;
use mcpool_upstream::{Cause, Limits, SendError, Times};
use mcpool_wire::{CallError, Executed, Link as _};
use serde_json::{Value, json};

use crate::lab::{Agent, Lab, Wish, broken, connect_refused, refused};

fn small() -> Wish {
    let limits =
        Limits { min_idle: 1, shared_sessions: 1, calls_per_session: 1, queue: 1, ..Limits::default() };
    let times = Times { queue: Duration::from_secs(5), ..Times::default() };
    let breaker = Settings { hold: Duration::from_secs(2), ..Settings::default() };
    Wish { limits, times, breaker, ..Wish::default() }
}

async fn ready() -> (Lab, Agent) {
    let lab = Lab::scripted(small());
    let agent = lab.agent(1).await;
    lab.until("a session", |lab| lab.standings().contains(&"ready")).await;
    (lab, agent)
}

/// A call whose message meets this.
async fn meets(tool: &str, error: SendError) -> CallError {
    let (lab, agent) = ready().await;
    lab.memory.last().refuse(1, &error);
    agent.run(tool, &json!({})).await.expect_err("it fails")
}

/// A call during which this happens.
async fn during(tool: &str, happens: impl AsyncFnOnce(&Lab)) -> CallError {
    let (lab, agent) = ready().await;
    let arguments = json!({"ms": 50});
    let happening = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        happens(&lab).await;
    };
    tokio::join!(agent.run(tool, &arguments), happening).0.expect_err("it fails")
}

async fn never_reached() -> CallError {
    let lab = Lab::scripted(small());
    lab.memory.goes_down(&connect_refused());
    lab.try_agent(1, None, json!({})).await.err().expect("nobody is there")
}

/// Behind a call that takes long: the first that waits, and the second, for which there is no room.
async fn crowded() -> [CallError; 2] {
    let (lab, agent) = ready().await;
    let (waits, late) = (lab.agent(2).await, lab.agent(3).await);
    let (long, none) = (json!({"ms": 30_000}), json!({}));
    let first = agent.run("echo", &long);
    let second = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        waits.run("write", &none).await.expect_err("no slot")
    };
    let third = async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        late.run("write", &none).await.expect_err("no room")
    };
    let (first, second, third) = tokio::join!(first, second, third);
    first.expect("answered");
    [second, third]
}

async fn held_by_the_circuit() -> CallError {
    let (lab, agent) = ready().await;
    lab.memory.goes_down(&connect_refused());
    lab.memory.last().fail(broken());
    lab.until("its end", |lab| lab.standings().is_empty()).await;
    agent.run("write", &json!({})).await.expect_err("down")
}

async fn own_session_gone() -> CallError {
    let lab = Lab::scripted(small());
    let agent = lab.try_agent(1, None, json!({"sampling": {}})).await.expect("a session of its own");
    lab.memory.last().fail(broken());
    tokio::time::sleep(Duration::from_millis(10)).await;
    agent.run("write", &json!({})).await.expect_err("its state is gone")
}

async fn request(method: &str, params: Value) -> CallError {
    let (_lab, agent) = ready().await;
    agent.link.call(agent.request(method, &params)).await.expect_err("refused")
}

async fn removed() -> CallError {
    let (lab, _agent) = ready().await;
    lab.registered.backend.shutdown(Duration::from_secs(1)).await;
    lab.try_agent(2, None, json!({"sampling": {}})).await.err().expect("over")
}

#[tokio::test(start_paused = true)]
async fn every_failed_call_says_what_failed_and_whether_it_ran() {
    let [waited, turned_away] = crowded().await;
    let protocol = || SendError::maybe_sent(Cause::Protocol("odd".to_owned()));
    let seen = [
        (never_reached().await, "backend_unavailable", "no"),
        (waited, "queue_timeout", "no"),
        (turned_away, "overloaded", "no"),
        (held_by_the_circuit().await, "circuit_open", "no"),
        // It was sent, may have run, and then there was nobody to send it to again.
        (
            during("echo", async |lab| {
                lab.memory.goes_down(&connect_refused());
                lab.memory.last().fail(broken());
            })
            .await,
            "circuit_open",
            "maybe",
        ),
        (during("write", async |lab| lab.memory.last().end()).await, "lost_in_flight", "maybe"),
        (own_session_gone().await, "lost_in_flight", "no"),
        (during("hang", async |_| ()).await, "deadline", "maybe"),
        (meets("echo", SendError::maybe_sent(Cause::TooLarge(10))).await, "answer_too_large", "maybe"),
        (meets("write", protocol()).await, "backend_protocol_violation", "maybe"),
        (meets("write", refused(Cause::Status)).await, "backend_protocol_violation", "no"),
        (meets("write", refused(Cause::Credential)).await, "denied", "no"),
        (meets("write", SendError::maybe_sent(Cause::Timeout("it"))).await, "deadline", "maybe"),
        (removed().await, "draining", "no"),
        (request("vendor/odd", json!({})).await, "method_not_found", "no"),
        (request("tools/list", json!({"cursor": "made up"})).await, "invalid_params", "no"),
    ];
    for (error, kind, executed) in &seen {
        let body: Value = serde_json::from_slice(&error.to_response(None, "0123")).expect("JSON");
        let data = &body["error"]["data"];
        assert_eq!((&data["kind"], &data["executed"]), (&json!(kind), &json!(executed)), "{body}");
        assert_eq!((&data["source"], &data["backend"]), (&json!("gateway"), &json!("lab")), "{body}");
        assert!(data["retryable"].is_boolean() && data["attempt"].is_u64(), "{body}");
        // What may have run is never called safe to send again.
        assert!(error.executed == Executed::No || data["retryable"] == false, "{body}");
    }
    let kinds: BTreeSet<_> = seen.iter().map(|(error, ..)| error.kind.as_str()).collect();
    // `invalid_request` and `cancelled` are the front's; nothing is `not_routable` towards an agent.
    assert_eq!(kinds.len(), 12, "{kinds:?}");
}
