//! A connection that ends at byte k of an answer, for every k (F3): one outcome for each request, and a parser that is
//! never confused by half of an event.

use super::*;

use futures::future::join_all;
use mcpool_testkit::{
    Answer, Fault, FaultKind, Stage,
    fault_proxy::{End, Shot, Strike, Way},
};
use mcpool_upstream::Limits;

use crate::wires::config;

/// Bytes of the text of an answer of about two kilobytes.
const TEXT: usize = 1_940;
/// Bytes of the whole answer, as an event, and a few more.
const EVENT: usize = 2_048;
/// Gateways at work at once; each has a backend of its own.
const LANES: usize = 4;

fn event_streams() -> Script {
    Script { answer: Answer::Sse, state_tools: true, ..Script::default() }
}

fn one_session(wanted: Wanted) -> Wanted {
    let limits = Limits { shared_sessions: 1, ..Limits::default() };
    // Every call is cut here: that is no outage a budget is for.
    Wanted { limits, retry_budget: 300, ..wanted }
}

/// One call that is safe to repeat, cut at this byte of its answer: the answer comes all the same, whole.
async fn safe(agent: &Agent, server: &Server, at: usize) {
    server.set_fault(Fault::once(Stage::Call, FaultKind::CutAt(at)));
    let answer = agent.call_tool("big", json!({ "bytes": TEXT })).await;
    let answer = answer.unwrap_or_else(|error| panic!("byte {at}: {error}"));
    let text = text_of(&answer);
    assert!(text.len() == TEXT && text.bytes().all(|byte| byte == b'x'), "byte {at}: {answer}");
}

/// One call that is not: it is answered, or it is told that it may have run; and it runs once.
async fn unsafe_to_repeat(agent: &Agent, server: &Server, at: usize) -> bool {
    server.set_fault(Fault::once(Stage::Call, FaultKind::CutAt(at)));
    let outcome = agent.call_tool("store", json!({ "value": format!("at {at}"), "ms": 0 })).await;
    let is_answered = outcome.is_ok();
    if !is_answered {
        let (code, data) = refusal(outcome);
        assert_eq!((code, &data["executed"]), (-31905, &json!("maybe")), "byte {at}: {data}");
    }
    is_answered
}

async fn every_byte(back: Transport, lane: usize) -> usize {
    let server = serve(event_streams()).await;
    let rig = Rig::start(one_session(wanted(&server, back, ModeChoice::Shared))).await;
    let agent = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
    let mut calls = 0;
    for at in (lane..EVENT).step_by(LANES) {
        safe(&agent, &server, at).await;
        calls += 1;
    }
    let mut answered = 0;
    for at in (lane..160).step_by(LANES) {
        answered += usize::from(unsafe_to_repeat(&agent, &server, at).await);
        is_served(&agent, "in between").await;
        calls += 2;
    }
    assert!(answered > 0 && answered < 30, "{answered} of 40 were answered: nothing was cut, or everything");
    let mut stored = server.stored();
    assert_eq!(stored.len(), 40, "each ran, and ran once");
    stored.sort_unstable();
    stored.dedup();
    assert_eq!(stored.len(), 40, "each ran, and ran once");
    assert_eq!((agent.foreign(), agent.garbage()), (0, 0));
    let dropped = rig.seen.dropped.lock().expect("not poisoned").clone();
    assert!(!dropped.keys().any(|kind| kind.contains("garbage")), "{dropped:?}");
    drop(agent);
    over(rig).await;
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_on_a_session_stream_can_end_at_any_byte() {
    let calls = join_all((0..LANES).map(|lane| every_byte(Transport::Sse, lane))).await;
    assert_eq!(calls.iter().sum::<usize>(), EVENT + 2 * 160);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_the_body_of_its_post_can_end_at_any_byte() {
    let calls = join_all((0..LANES).map(|lane| every_byte(Transport::Http, lane))).await;
    assert_eq!(calls.iter().sum::<usize>(), EVENT + 2 * 160);
}

/// Whatever was sent: heads of HTTP, acknowledgements, chunk sizes, the answer; and the request itself.
async fn every_byte_of_the_wire(back: Transport, way: Way, bytes: u64) {
    let server = serve(event_streams()).await;
    let proxy = FaultProxy::start(server.addr()).await.expect("a proxy");
    let rig = Rig::start(one_session(through(&proxy, &server, back))).await;
    let agent = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
    let mut struck = 0;
    for after in (0..bytes).step_by(if std::env::var_os("MCPOOL_LONG").is_some() { 1 } else { 17 }) {
        let end = if after % 2 == 0 { End::Close } else { End::Reset };
        let before = proxy.stats().struck;
        assert!(proxy.strike(Strike { way, after, shot: Shot::Cut(end) }));
        let nonce = format!("{after:0>400}");
        is_served(&agent, &nonce).await;
        struck += proxy.stats().struck - before;
        proxy.clear();
        is_served(&agent, "in between").await;
    }
    assert!(struck > 20, "only {struck} connections were cut");
    assert_eq!((agent.foreign(), agent.garbage()), (0, 0));
    drop(agent);
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_can_end_at_any_byte_of_the_wire() {
    for back in crate::wires::WIRES {
        tokio::join!(
            every_byte_of_the_wire(back, Way::ToClient, 1_300),
            every_byte_of_the_wire(back, Way::ToServer, 900)
        );
    }
}
