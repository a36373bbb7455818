//! The links agents without handshake share: who shares one, when there is another, and when one goes.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_front::{FrontConfig, FrontTimes};
use mcpool_wire::{CapabilityClass, Era};
use serde_json::{Value, json};

use crate::{
    client::{start, start_with, until},
    modern::{call, meta, request},
};

#[tokio::test]
async fn where_a_session_keeps_things_discovery_is_refused_and_calls_are_served() {
    let front = start().await;
    front.script.keeps_state.store(true, Ordering::SeqCst);
    let got = front.ask(&request("probe", "server/discover", &json!({}))).await;
    assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (404, -32601, json!("probe")));
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 0, "nothing is opened for it");
    assert_eq!(front.ask(&call(1, "echo")).await.status, 200);
}

#[tokio::test]
async fn a_link_that_were_another_today_takes_no_new_calls() {
    let front = start().await;
    let links = || front.script.links.load(Ordering::SeqCst);
    let body = call(1, "gated");
    let running = async { front.ask(&body).await };
    let meanwhile = async {
        until("it runs", || front.calls() == 1).await;
        front.script.outdated.store(true, Ordering::SeqCst);
        assert_eq!(front.ask(&call(2, "echo")).await.status, 200);
        assert_eq!(front.script.opened.load(Ordering::SeqCst), 2);
        front.script.outdated.store(false, Ordering::SeqCst);
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(running, meanwhile);
    assert_eq!(got.status, 200, "what runs on it ends there");
    assert_eq!(front.ask(&call(3, "echo")).await.status, 200);
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 2);
    until("the old one is over", || links() == 1).await;
}

#[tokio::test]
async fn callers_of_one_kind_share_a_link_and_same_ids_do_not_meet() {
    let front = start().await;
    let body = call(1, "gated");
    let calls = (0..6).map(|_| front.ask(&body));
    let all = futures::future::join_all(calls);
    let release = async {
        until("all of them run", || front.calls() == 6).await;
        front.script.gate.open();
    };
    let (all, ()) = tokio::join!(all, release);
    for got in all {
        assert_eq!((got.status.as_u16(), got.json()["id"].clone()), (200, json!(1)), "{got:?}");
    }
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);
    assert_eq!(front.gauges.modern_agents.load(Ordering::SeqCst), 1);
    {
        let hellos = front.script.hellos.lock().unwrap();
        assert_eq!(hellos[0].client.revision.era(), Era::Modern);
        assert_eq!(hellos[0].client.class(), CapabilityClass::neutral());
    }
    // Who could be told apart has a link of its own.
    let interactive = |capabilities: Value| {
        request(1, "tools/call", &json!({ "name": "echo", "_meta": meta(&capabilities) }))
    };
    front.ask_with(&[("mcpool-affinity", "x")], &call(1, "echo")).await;
    front.ask(&interactive(json!({ "elicitation": {} }))).await;
    front.ask(&interactive(json!({ "elicitation": {} }))).await;
    front.ask(&interactive(json!({ "sampling": {} }))).await;
    front.ask(&interactive(json!({ "extensions": {} }))).await;
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 4);
    let last = front.script.hellos.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last.client.capabilities, json!({ "sampling": {} }));
    assert_eq!(front.gauges.http_agents.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn many_calls_at_a_time_spread_over_more_links() {
    let front = start().await;
    front.ask(&call(0, "echo")).await;
    let body = call(1, "gated");
    let calls = async { futures::future::join_all((0..40).map(|_| front.ask(&body))).await };
    let release = async {
        until("all of them run", || front.calls() == 41).await;
        front.script.gate.open();
    };
    let (all, ()) = tokio::join!(calls, release);
    assert!(all.iter().all(|got| got.status == 200));
    let links = front.script.links.load(Ordering::SeqCst);
    assert!((2..=32).contains(&links), "{links}");
}

#[tokio::test]
async fn a_link_nobody_calls_over_goes_and_the_next_call_opens_another() {
    let times = FrontTimes { agent_idle: Duration::from_millis(200), ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    assert_eq!(front.ask(&call(1, "echo")).await.status, 200);
    until("it is gone", || front.script.links.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.gauges.modern_agents.load(Ordering::SeqCst), 0);
    assert_eq!(front.script.saw("closed idle"), 1);
    let body = call(2, "gated");
    let running = async { front.ask(&body).await };
    let meanwhile = async {
        until("it runs", || front.calls() == 2).await;
        // Longer than an idle one stays.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(front.gauges.modern_agents.load(Ordering::SeqCst), 1, "with a call it is not idle");
        front.script.gate.open();
    };
    assert_eq!(tokio::join!(running, meanwhile).0.status, 200);
}

#[tokio::test]
async fn of_too_many_links_the_one_that_was_idle_longest_goes() {
    const MOST: usize = 1_024;
    let front = start().await;
    let opened = || front.script.opened.load(Ordering::SeqCst);
    let call_as = async |name: usize| {
        let name = name.to_string();
        let got = front.ask_with(&[("mcpool-affinity", name.as_str())], &call(1, "echo")).await;
        assert_eq!(got.status, 200, "{name}");
    };
    for name in 0..MOST + 8 {
        call_as(name).await;
    }
    assert_eq!(front.script.links.load(Ordering::SeqCst), MOST);
    assert_eq!(front.gauges.modern_agents.load(Ordering::SeqCst), MOST);
    call_as(MOST + 7).await;
    assert_eq!(opened(), MOST + 8, "the last one is there");
    call_as(0).await;
    assert_eq!(opened(), MOST + 9, "the first one is not");
}
