//! One session and those who share it: whose answer is whose, what becomes of cancelled calls, and when silence means
//! death.

use std::time::Duration;

use bytes::Bytes;
use mcpool_upstream::{
    Cause, Limits, ModeChoice, SendError, Times,
    transport::memory::{Memory, Turn},
};
use mcpool_wire::{Executed, Link as _, LinkEvent, Method};
use serde_json::{Value, json};

use crate::lab::{Agent, Lab, Wish, broken, connect_refused, now, text};

fn one_session() -> Wish {
    Wish { limits: Limits { min_idle: 0, shared_sessions: 1, ..Limits::default() }, ..Wish::default() }
}

async fn both_styles() -> [(Lab, [Agent; 2]); 2] {
    let stream = Lab::scripted(one_session());
    let exchange = Lab::scripted_in_exchange(one_session());
    let on_stream = [stream.agent(1).await, stream.agent(2).await];
    let in_exchange = [exchange.agent(1).await, exchange.agent(2).await];
    [(stream, on_stream), (exchange, in_exchange)]
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// The upstream ids of the calls the session was sent.
fn ids(lab: &Lab, method: &str) -> Vec<Value> {
    let sent: Vec<Value> = lab.memory.last().sent().iter().map(|m| parsed(m)).collect();
    sent.iter().filter(|m| m["method"] == method).map(|m| m["id"].clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn answers_reach_their_own_callers_in_whatever_order_they_come() {
    for (lab, agents) in both_styles().await {
        // Every call has the same id and the same token; later ones are answered first.
        let calls = (0..30).map(|n| {
            let agent = &agents[n % 2];
            let arguments = json!({"n": n, "ms": 300 - 10 * n});
            agent.link.call(agent.tool("echo", &arguments))
        });
        for (n, outcome) in futures::future::join_all(calls).await.into_iter().enumerate() {
            let answer = outcome.expect("an answer");
            assert_eq!(parsed(text(&answer).as_bytes())["n"], n, "somebody else's answer");
            assert_eq!(parsed(&answer.with_id(b"\"agents-own\""))["id"], "agents-own");
        }
        let mut ids = ids(&lab, "tools/call");
        assert!(ids.iter().all(|id| id.is_u64()), "no agent's id goes upstream");
        ids.sort_by_key(Value::as_u64);
        ids.dedup();
        assert_eq!(ids.len(), 30);
        assert_eq!(lab.held().pending, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn progress_reaches_its_owner_under_the_owners_token_and_ends_with_the_call() {
    for (lab, agents) in both_styles().await {
        let arguments = json!({"ms": 100});
        let call = agents[0].run("echo", &arguments);
        let progress = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let id = ids(&lab, "tools/call")[0].clone();
            let params = json!({"progressToken": id, "progress": 0.5, "message": "half"});
            let message =
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string();
            lab.memory.last().say(message.clone());
            lab.memory.last().say(message.replace(&id.to_string(), "17"));
            message
        };
        let (answer, message) = tokio::join!(call, progress);
        answer.expect("an answer");
        let taken = agents[0].inbox.taken();
        let [LinkEvent::Progress(got)] = taken.as_slice() else { panic!("not one progress: {taken:?}") };
        assert_eq!(parsed(got)["params"]["progressToken"], "mine");
        assert_eq!(parsed(got)["params"]["message"], "half");
        assert!(agents[1].inbox.taken().is_empty());
        assert_eq!(lab.seen.count("dropped_progress"), 1, "nobody's token");
        lab.memory.last().say(message);
        lab.until("late progress is dropped", |lab| lab.seen.count("dropped_progress") == 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_cancelled_by_its_upstream_id_and_its_late_answer_is_nobodys() {
    for (lab, agents) in both_styles().await {
        let arguments = json!({"ms": 500});
        drop(tokio::time::timeout(Duration::from_millis(50), agents[0].run("echo", &arguments)).await);
        assert_eq!((lab.held().in_flight, lab.held().pending), (1, 1), "the backend still works on it");
        let took = lab.until("the slot is back", |lab| lab.held().in_flight == 0).await;
        assert!(took < Duration::from_millis(460), "with the answer: {took:?}");
        let told: Vec<Value> = lab.memory.last().sent().iter().map(|m| parsed(m)).collect();
        let told: Vec<&Value> = told.iter().filter(|m| m["method"] == "notifications/cancelled").collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["params"]["requestId"], ids(&lab, "tools/call")[0]);
        assert_eq!(lab.seen.count("dropped_late_answer"), 1);
        agents[1].run("echo", &json!({})).await.expect("an answer");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_nobody_are_counted_and_harm_nobody() {
    let [(lab, agents), _] = both_styles().await;
    for strange in
        [r#"{"jsonrpc":"2.0","id":5,"result":{}}"#, r#"{"jsonrpc":"2.0","id":"x","result":{}}"#, "{"]
    {
        lab.memory.last().say(strange);
    }
    agents[0].run("echo", &json!({})).await.expect("an answer");
    assert_eq!((lab.seen.count("dropped_unknown_id"), lab.seen.count("dropped_malformed")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_is_told_to_every_caller_once_and_is_one_incident() {
    let [(lab, agents), _] = both_styles().await;
    let calls = (0..20).map(|n| agents[n % 2].link.call(agents[n % 2].tool("write", &json!({"ms": 500}))));
    let end = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        lab.memory.last().fail(broken());
        lab.memory.last().fail(broken());
    };
    let (outcomes, ()) = tokio::join!(futures::future::join_all(calls), end);
    for outcome in outcomes {
        let error = outcome.expect_err("lost");
        assert_eq!((error.kind.code(), error.executed), (-31905, Executed::Maybe));
    }
    assert_eq!((lab.seen.count("closed_by_incident"), lab.seen.count("closed")), (1, 0));
    assert_eq!((lab.held().pending, lab.held().places), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn calls_whose_answers_come_apart_outlive_the_session_they_ran_on() {
    let [_, (lab, agents)] = both_styles().await;
    let arguments = json!({"ms": 500});
    let call = agents[0].run("write", &arguments);
    let lose = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        lab.memory.last().fail(broken());
        tokio::time::sleep(Duration::from_millis(10)).await;
        agents[1].run("write", &json!({})).await.expect("on a new session at once");
    };
    let (answer, ()) = tokio::join!(call, lose);
    answer.expect("its own connection is fine");
    assert_eq!(lab.memory.sessions().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_listens_any_more_ends_a_session_at_once() {
    let [_, (lab, agents)] = both_styles().await;
    lab.memory.last().refuse(1, &connect_refused());
    let start = now();
    agents[0].run("write", &json!({})).await.expect("sent again on a new session");
    assert_eq!(lab.memory.sessions().len(), 2);
    assert!(now() - start < Duration::from_millis(50));
    assert_eq!(lab.seen.count("closed_by_incident"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broken_answer_makes_its_session_suspect_until_it_answers_a_probe() {
    let [_, (lab, agents)] = both_styles().await;
    agents[0].run("echo", &json!({})).await.expect("heard of a moment ago");
    lab.memory.last().refuse(1, &broken());
    agents[0].run("write", &json!({})).await.expect_err("lost");
    assert_eq!(lab.standings(), ["suspect"], "what was heard before does not count");
    agents[1].run("write", &json!({})).await.expect("an answer");
    assert_eq!((lab.memory.sessions().len(), lab.seen.count("probed_true")), (1, 1), "probed, and well");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_probed_in_silence_only() {
    for (lab, agents) in both_styles().await {
        agents[0].run("echo", &json!({})).await.expect("an answer");
        // The second one had nothing to do while the first was looked at.
        let before = lab.seen.count("probed_true");
        let probes = || lab.seen.count("probed_true") - before;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            agents[0].run("echo", &json!({})).await.expect("an answer");
        }
        assert_eq!(probes(), 0, "traffic is life");
        tokio::time::sleep(Duration::from_secs(95)).await;
        assert_eq!(probes(), 3);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            lab.memory.last().keep_alive();
        }
        assert_eq!(probes(), 3, "so is a keep-alive");
    }
}

async fn deafen(lab: &Lab, agent: &Agent) {
    agent.run("echo", &json!({"deaf": true})).await.expect("an answer");
    assert_eq!(lab.standings(), ["ready"]);
}

#[tokio::test(start_paused = true)]
async fn two_missed_probes_end_a_session_that_does_nothing() {
    for (lab, agents) in both_styles().await {
        deafen(&lab, &agents[0]).await;
        let Times { probe_interval, probe_timeout, .. } = Times::default();
        let took = lab.until("its end", |lab| lab.standings().is_empty()).await;
        assert!(took >= probe_interval + 2 * probe_timeout, "{took:?}");
        assert!(took < probe_interval + 2 * probe_timeout + Duration::from_secs(1), "{took:?}");
        assert_eq!((lab.seen.count("probed_false"), lab.seen.count("closed_by_incident")), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn missed_probes_kill_no_session_that_works() {
    for (lab, agents) in both_styles().await {
        deafen(&lab, &agents[0]).await;
        // Its server can do one thing at a time, and this takes 55 s.
        agents[0].run("echo", &json!({"ms": 55_000})).await.expect("an answer all the same");
        assert!(lab.seen.count("probed_false") >= 2);
        lab.until("it is lent again", |lab| lab.standings() == ["ready"]).await;
        assert_eq!(lab.memory.sessions().len(), 1);
        agents[1].run("echo", &json!({})).await.expect("an answer");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_cancelled_calls_that_still_run_end_a_session_when_its_work_is_done() {
    let mut wish = one_session();
    wish.limits.calls_per_session = 8;
    let lab = Lab::scripted(wish);
    let agent = lab.agent(1).await;
    for _ in 0..3 {
        agent.run("hang", &json!({})).now_or_drop().await;
    }
    lab.until("it takes no new work", |lab| lab.standings() == ["draining"]).await;
    agent.run("echo", &json!({})).await.expect("on a new session");
    assert_eq!(lab.memory.sessions().len(), 2);
    lab.until("the old one ends", |lab| lab.standings() == ["ready"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_shared_session_is_asked_is_answered_by_the_gateway() {
    let [(lab, agents), _] = both_styles().await;
    lab.memory.last().say(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#);
    lab.memory.last().say(r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}"#);
    lab.until("two answers", |lab| lab.memory.last().methods().iter().filter(|m| m.is_empty()).count() == 2)
        .await;
    let sent: Vec<Value> = lab.memory.last().sent().iter().map(|m| parsed(m)).collect();
    assert!(sent.iter().any(|m| m["id"] == "p" && m["result"] == json!({})));
    assert!(sent.iter().any(|m| m["id"] == 7 && m["error"]["code"] == -32601));
    assert!(agents.iter().all(|agent| agent.inbox.taken().is_empty()), "nobody is guessed");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_left_is_not_called_lost_when_its_session_ends() {
    let [(lab, agents), _] = both_styles().await;
    // The backend is gone: its stream ends and its address refuses, in one moment.
    lab.memory.last().end();
    lab.memory.last().refuse(1, &SendError::not_sent(Cause::Connect("connection refused".to_owned())));
    agents[0].run("write", &json!({})).await.expect("sent again on a new session");
}

/// Runs a call for one poll and drops it.
trait NowOrDrop: Future + Sized {
    async fn now_or_drop(self) {
        drop(tokio::time::timeout(Duration::ZERO, self).await);
    }
}

impl<F: Future> NowOrDrop for F {}

/// Lists what the number of its session says; the tool `hang` never answers.
async fn lists_by_session(turn: Turn) -> Vec<Bytes> {
    if parsed(&turn.message)["params"]["name"] == "hang" {
        std::future::pending::<()>().await;
    }
    if turn.method() != Some(Method::ToolsList) {
        return turn.reply().into_iter().collect();
    }
    let tools = json!({"tools": [{"name": format!("of-{}", turn.session.index())}]});
    let response = json!({"jsonrpc": "2.0", "id": parsed(&turn.message)["id"], "result": tools});
    vec![response.to_string().into()]
}

#[tokio::test(start_paused = true)]
async fn a_list_is_not_kept_over_a_time_in_which_no_session_listened() {
    let lab = Lab::start(Memory::new(lists_by_session).answering_in_exchange(), one_session());
    let agent = lab.agent(1).await;
    let list = async || {
        let answer = agent.link.call(agent.request("tools/list", &json!({}))).await.expect("a list");
        parsed(answer.message.bytes())["result"]["tools"][0]["name"].clone()
    };
    assert_eq!((list().await, list().await), (json!("of-0"), json!("of-0")));
    // A call in flight keeps the session from closing when its stream breaks.
    let hangs = tokio::spawn(agent.link.call(agent.tool("hang", &json!({}))));
    lab.until("the call is there", |lab| lab.held().in_flight == 1).await;
    lab.memory.last().fail(broken());
    lab.until("it drains", |lab| lab.standings().contains(&"draining")).await;
    assert_eq!(list().await, "of-1");
    assert!(lab.standings().contains(&"draining"), "the time of the gap");
    hangs.abort();
}

#[tokio::test(start_paused = true)]
async fn the_log_of_a_borrowed_session_is_filtered_by_its_borrowers_level() {
    let wish = Wish { mode: ModeChoice::Exclusive, ..one_session() };
    let lab = Lab::scripted(wish);
    let (loud, quiet) = (lab.agent(1).await, lab.agent(2).await);
    for (agent, level) in [(&loud, "debug"), (&quiet, "error")] {
        let call = agent.request("logging/setLevel", &json!({ "level": level }));
        agent.link.call(call).await.expect("set");
    }
    for (agent, lines) in [(&loud, 2), (&quiet, 1)] {
        let arguments = json!({"ms": 100});
        let said = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            for level in ["info", "error"] {
                let params = json!({"level": level, "data": "x"});
                let line = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params});
                lab.memory.last().say(line.to_string());
            }
        };
        let (answer, ()) = tokio::join!(agent.run("echo", &arguments), said);
        answer.expect("an answer");
        assert_eq!((agent.inbox.taken().len(), agent.link_mode()), (lines, "exclusive"));
    }
}
