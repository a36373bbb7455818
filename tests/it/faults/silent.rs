//! Backends that accept and never answer: at each step of a handshake, to a call, to a probe (F2). Over sockets each
//! timeout holds within a tenth, and is long enough for a tenth to be more than a busy machine takes; on a paused clock,
//! with the defaults, it holds to the millisecond.

use super::*;

use futures::future::join_all;
use mcpool_testkit::{Fault, FaultKind, Stage};
use mcpool_upstream::{
    Limits,
    transport::memory::{Memory, Turn},
};
use mcpool_wire::ErrorKind;

use crate::{
    lab::{Lab, Wish, now},
    wires::{WIRES, config, until},
};

/// What is waited for here.
const LONG: Duration = Duration::from_secs(10);

/// Within a tenth.
fn is_on_time(took: Duration, timeout: Duration, what: &str) {
    println_figures(&format!("{what}: {took:?} where {timeout:?} is the limit"));
    assert!(took > timeout * 9 / 10 && took < timeout * 11 / 10, "{what}: {took:?} instead of {timeout:?}");
}

/// Steps a handshake can hang at, and how. A ping, and the stream of a Streamable HTTP session, are no such steps.
const STEPS: [(Stage, FaultKind); 4] = [
    (Stage::Connect, FaultKind::Hang),
    (Stage::Initialize, FaultKind::Silent),
    (Stage::Initialized, FaultKind::Hang),
    (Stage::Listen, FaultKind::Hang),
];

async fn serves_all_the_same(back: Transport, stage: Stage, kind: FaultKind) {
    let server = serve(Script { faults: vec![Fault::always(stage, kind)], ..Script::default() }).await;
    let rig = Rig::start(wanted(&server, back, ModeChoice::Shared)).await;
    let agent = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
    is_served(&agent, "all the same").await;
    assert_eq!(server.stats().sessions_opened, 1, "{stage:?} over {back:?}");
    drop(agent);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_silent_to_pings_or_without_a_stream_serves_all_the_same() {
    tokio::join!(
        serves_all_the_same(Transport::Sse, Stage::Ping, FaultKind::Silent),
        serves_all_the_same(Transport::Http, Stage::Ping, FaultKind::Silent),
        serves_all_the_same(Transport::Http, Stage::Listen, FaultKind::Hang),
    );
}

async fn silent_at(back: Transport, stage: Stage, kind: FaultKind) {
    let server = serve(Script { faults: vec![Fault::always(stage, kind)], ..Script::default() }).await;
    let what = format!("{stage:?} over {back:?}");
    let mut bad = hasty(wanted(&server, back, ModeChoice::Shared));
    (bad.times.handshake, bad.times.first_open) = (LONG, LONG / 2);
    // The first handshake begins with the gateway.
    let opened = Instant::now();
    beside(&what, back, bad, async |rig| {
        let began = Instant::now();
        is_told(rig, "bad", &what).await;
        is_on_time(began.elapsed(), LONG / 2, &format!("an agent, {what}"));
        let failed = || {
            let events = rig.seen.events.lock().expect("not poisoned");
            events.iter().any(|event| event.starts_with("OpenFailed"))
        };
        until(&format!("{what}: the handshake is given up"), failed).await;
        is_on_time(opened.elapsed(), LONG, &format!("the handshake, {what}"));
        server.clear_faults();
        is_served_soon(rig, &what).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_hangs_ends_at_its_own_deadline_and_delays_nobody_else() {
    for back in WIRES {
        let counts = |stage: &Stage| back == Transport::Sse || *stage != Stage::Listen;
        let steps = STEPS.iter().filter(|(stage, _)| counts(stage));
        let all = steps.map(|(stage, kind)| silent_at(back, *stage, kind.clone()));
        join_all(all).await;
    }
}

async fn silent_call(back: Transport, kind: FaultKind) {
    let server = serve(Script { state_tools: true, ..Script::default() }).await;
    // The session is shared with the agent that is not concerned.
    let limits = Limits { shared_sessions: 1, ..Limits::default() };
    let mut wanted = Wanted { limits, ..hasty(wanted(&server, back, ModeChoice::Shared)) };
    wanted.times.call_idle = LONG;
    let rig = Rig::start(wanted).await;
    let one = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
    let other = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
    is_served(&one, "warm").await;
    let quiet = calls_in_quiet(&other).await;
    let what = format!("a call, {kind:?} over {back:?}");
    server.set_fault(Fault::once(Stage::Call, kind));
    let stop = CancellationToken::new();
    let silent = async {
        let began = Instant::now();
        let outcome = one.call_tool("store", json!({ "value": "silent", "ms": 0 })).await;
        stop.cancel();
        (outcome, began.elapsed())
    };
    let calling = async {
        until("the fault has hit", || server.stats().faults > 0).await;
        keeps_calling(&other, &stop).await
    };
    let ((outcome, took), others) = tokio::join!(silent, calling);
    let (code, data) = refusal(outcome);
    assert_eq!((code, &data["executed"]), (-31906, &json!("maybe")), "{what}: {data}");
    is_on_time(took, LONG, &what);
    others.is_like(&quiet, &what);
    drop((one, other));
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_never_answered_ends_at_its_own_deadline_and_delays_nobody_else() {
    let kinds = [FaultKind::Silent, FaultKind::Hang];
    let all = WIRES.iter().flat_map(|back| kinds.iter().map(|kind| silent_call(*back, kind.clone())));
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_probes_are_never_answered_is_replaced_before_anybody_calls_it() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = Rig::start(hasty(wanted(&server, back, ModeChoice::Shared))).await;
        let agent = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
        is_served(&agent, "warm").await;
        let opened = server.stats().sessions_opened;
        // Two in a row: one is not enough to give a session up.
        let two = Fault { times: Some(2), ..Fault::always(Stage::Ping, FaultKind::Silent) };
        let began = Instant::now();
        server.set_fault(two);
        until("a new session", || server.stats().sessions_opened > opened).await;
        let took = began.elapsed();
        let least = rig.gateway.backends()[0].backend.spec().times.probe_timeout * 2;
        assert!(took > least && took < least * 4 + SLACK, "{back:?}: {took:?}");
        let began = Instant::now();
        is_served(&agent, "on the new one").await;
        assert!(began.elapsed() < UNHURT, "{back:?}: {:?}", began.elapsed());
        drop(agent);
        over(rig).await;
    }
}

/// A backend that never answers messages of this method.
fn silent_to(method: &'static str) -> Memory {
    Memory::new(move |turn: Turn| async move {
        if turn.method().is_some_and(|called| called.as_str() == method) {
            std::future::pending::<()>().await;
        }
        turn.reply().into_iter().collect()
    })
}

fn is_exact(took: Duration, timeout: Duration, what: &str) {
    // Whoever looks does so every millisecond.
    assert!(
        took >= timeout && took < timeout + Duration::from_millis(5),
        "{what}: {took:?}, not {timeout:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_step_of_a_handshake_that_hangs_ends_it_to_the_millisecond() {
    {
        let (what, memory) = ("initialize", silent_to("initialize"));
        let limits = Limits { min_idle: 1, ..Limits::default() };
        let lab = Lab::start(memory, Wish { limits, ..Wish::default() });
        let times = lab.registered.backend.spec().times.clone();
        let began = now();
        let told = async {
            let refused = lab.try_agent(1, None, json!({})).await;
            assert!(refused.is_err(), "{what}: there is nobody");
            now() - began
        };
        let given_up = lab.until("given up", |lab| lab.seen.count("open_failed") == 1);
        let (told, given_up) = tokio::join!(told, given_up);
        is_exact(told, times.first_open, what);
        is_exact(given_up, times.handshake, what);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_and_a_probe_that_are_never_answered_end_to_the_millisecond_and_delay_nobody() {
    let limits = Limits { shared_sessions: 1, ..Limits::default() };
    let lab = Lab::scripted(Wish { limits, ..Wish::default() });
    let times = lab.registered.backend.spec().times.clone();
    let (one, other) = (lab.agent(1).await, lab.agent(2).await);
    let (none, short) = (json!({}), json!({ "ms": 20 }));
    let began = now();
    let hangs = async {
        let error = one.run("hang", &none).await.expect_err("nobody answers");
        assert_eq!(error.kind, ErrorKind::Deadline, "{error}");
        is_exact(now() - began, times.call_idle, "a call");
    };
    let others = async {
        for _ in 0..times.call_idle.as_secs() {
            let called = now();
            other.run("echo", &short).await.expect("served");
            assert_eq!(now() - called, Duration::from_millis(20), "as if nobody else were there");
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
    };
    tokio::join!(hangs, others);
    // From now on no probe is answered.
    other.run("echo", &json!({ "text": "deaf" })).await.expect("served");
    let took = lab.until("the end of the session", |lab| lab.seen.count("closed_by_incident") == 1).await;
    is_exact(took, times.probe_interval + times.probe_timeout * 2, "a probe and one more");
    other.run("echo", &none).await.expect("on a new session");
}
