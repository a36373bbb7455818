//! The stack of a call: what is repeated, what is held, and what an agent is told when there is no answer.

use std::time::Duration;

use mcpool_breaker::Settings;
use mcpool_upstream::{Cause, Limits, SendError, Times, transport::memory::Memory};
use mcpool_wire::{CallError, ErrorKind, Executed, Link as _};
use serde_json::json;

use crate::lab::{Agent, Lab, Wish, broken, connect_refused, now, refused, text};

fn small() -> Wish {
    let limits = Limits { min_idle: 1, shared_sessions: 1, calls_per_session: 1, ..Limits::default() };
    let times = Times { call_idle: Duration::from_secs(60), ..Times::default() };
    Wish { limits, times, ..Wish::default() }
}

async fn ready(wish: Wish) -> (Lab, Agent) {
    let lab = Lab::scripted(wish);
    let agent = lab.agent(1).await;
    lab.until("a session", |lab| lab.standings().contains(&"ready")).await;
    (lab, agent)
}

fn calls_seen(lab: &Lab) -> usize {
    lab.memory.sessions().iter().flat_map(|s| s.methods()).filter(|m| m == "tools/call").count()
}

async fn fails(lab: &Lab, agent: &Agent, tool: &str, error: SendError) -> Result<String, CallError> {
    lab.memory.last().refuse(1, &error);
    agent.run(tool, &json!({"n": 1})).await.map(|answer| text(&answer))
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_sent_again_whatever_it_is() {
    let (lab, agent) = ready(small()).await;
    let answer = fails(&lab, &agent, "write", connect_refused()).await;
    assert_eq!(answer.expect("an answer"), r#"{"n":1}"#);
    assert_eq!((lab.seen.count("retried_not_sent"), calls_seen(&lab)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_before_it_ran_is_sent_again_whatever_it_is() {
    for cause in [Cause::SessionLost, Cause::Pressure, Cause::NotInitialized] {
        let (lab, agent) = ready(small()).await;
        fails(&lab, &agent, "write", refused(cause)).await.expect("an answer");
        assert_eq!((lab.seen.count("retried_refused"), calls_seen(&lab)), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_is_told_at_once() {
    let (lab, agent) = ready(small()).await;
    let error = fails(&lab, &agent, "echo", refused(Cause::Credential)).await.expect_err("refused");
    assert_eq!((error.kind, error.executed), (ErrorKind::Denied, Executed::No));
    assert_eq!(lab.seen.count("retried_refused"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_run_is_repeated_only_if_that_changes_nothing() {
    let (lab, agent) = ready(small()).await;
    fails(&lab, &agent, "echo", broken()).await.expect("read-only: repeated");
    assert_eq!(lab.seen.count("retried_maybe_sent"), 1);
    let error = fails(&lab, &agent, "write", broken()).await.expect_err("not read-only");
    assert_eq!((error.kind.code(), error.executed), (-31905, Executed::Maybe));
    assert!(!error.is_retryable());
    assert_eq!(lab.seen.count("retried_maybe_sent"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_safe_call_is_not_repeated_for_ever_and_what_it_says_again_not_at_all() {
    let (lab, agent) = ready(small()).await;
    lab.memory.last().refuse(1, &SendError::maybe_sent(Cause::TooLarge(10)));
    let error = agent.run("echo", &json!({})).await.expect_err("too large stays too large");
    assert_eq!((error.kind.code(), error.attempt), (-31908, 1));
    let silent = Memory::new(|turn| async move {
        let is_call = turn.method() == Some(mcpool_wire::Method::ToolsCall);
        turn.reply().into_iter().filter(|_| !is_call).collect()
    });
    let lab = Lab::start(silent.answering_in_exchange(), small());
    let agent = lab.agent(1).await;
    let error = agent.run("echo", &json!({})).await.expect_err("its exchange ends without an answer");
    assert_eq!((error.kind.code(), error.executed, error.attempt), (-31905, Executed::Maybe, 3));
    assert_eq!(calls_seen(&lab), 3);
}

#[tokio::test(start_paused = true)]
async fn a_safe_call_that_may_have_run_says_so_also_if_its_repetition_never_ran() {
    let (lab, agent) = ready(small()).await;
    // The session dies under the first attempt and none comes back.
    let arguments = json!({"ms": 50});
    let call = agent.run("echo", &arguments);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        lab.memory.fail_connects(100_000, &connect_refused());
        lab.memory.last().fail(broken());
    };
    let (outcome, ()) = tokio::join!(call, kill);
    let error = outcome.expect_err("no backend");
    assert_eq!((error.kind, error.executed), (ErrorKind::CircuitOpen, Executed::Maybe));
}

#[tokio::test(start_paused = true)]
async fn an_unsafe_call_lost_with_its_session_may_have_run() {
    let (lab, agent) = ready(small()).await;
    let arguments = json!({"ms": 50});
    let call = agent.run("write", &arguments);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        lab.memory.last().end();
    };
    let (outcome, ()) = tokio::join!(call, kill);
    let error = outcome.expect_err("lost");
    assert_eq!((error.kind.code(), error.executed), (-31905, Executed::Maybe));
    agent.run("write", &json!({})).await.expect("the next one gets a new session");
}

#[tokio::test(start_paused = true)]
async fn a_full_room_and_a_long_queue_are_told_apart() {
    let mut wish = small();
    wish.limits.queue = 1;
    wish.times.queue = Duration::from_secs(5);
    let (lab, agent) = ready(wish).await;
    let others = [lab.agent(2).await, lab.agent(3).await];
    let busy = json!({"ms": 20_000});
    let waits = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let start = now();
        let error = others[0].run("echo", &json!({})).await.expect_err("queue time");
        assert_eq!((error.kind.code(), error.executed, error.is_retryable()), (-31902, Executed::No, true));
        assert_eq!((now() - start).as_secs(), 5);
    };
    let refused = async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let error = others[1].run("echo", &json!({})).await.expect_err("room for one");
        assert_eq!((error.kind.code(), error.executed), (-31903, Executed::No));
        assert!(error.retry_after.is_some());
    };
    let (first, (), ()) = tokio::join!(agent.run("echo", &busy), waits, refused);
    first.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_ends_the_call_at_the_deadline_and_says_whether_it_was_sent() {
    let mut wish = small();
    wish.times.queue = Duration::from_secs(600);
    let (lab, agent) = ready(wish).await;
    let waiting = lab.agent(2).await;
    let start = now();
    let hang = json!({});
    let waits = async {
        // The slot is free for a moment when the first call is given up and its grace is over.
        let mut call = waiting.tool("echo", &json!({}));
        call.hard_deadline = now() + Duration::from_secs(30);
        let error = waiting.link.call(call).await.expect_err("never got a slot");
        assert_eq!((error.kind.code(), error.executed), (-31906, Executed::No));
    };
    let (hung, ()) = tokio::join!(agent.run("hang", &hang), waits);
    let error = hung.expect_err("silence");
    assert_eq!((error.kind.code(), error.executed), (-31906, Executed::Maybe));
    assert_eq!((now() - start).as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn progress_keeps_a_long_call_alive() {
    let (lab, agent) = ready(small()).await;
    let arguments = json!({"ms": 150_000});
    let call = agent.run("echo", &arguments);
    let progress = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let session = lab.memory.last();
        let sent = session.sent().pop().expect("the call");
        let id = serde_json::from_slice::<serde_json::Value>(&sent).expect("JSON")["id"].clone();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(35)).await;
            let progress = json!({"progressToken": id, "progress": 1});
            let message = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress});
            session.say(message.to_string());
        }
    };
    let (outcome, ()) = tokio::join!(call, progress);
    outcome.expect("an answer after 150 s");
}

async fn kill(lab: &Lab, failures: usize) {
    lab.memory.fail_connects(failures, &connect_refused());
    for session in lab.memory.sessions() {
        session.fail(broken());
    }
    lab.until("its end", |lab| lab.standings().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_no_call() {
    let mut wish = small();
    wish.limits.calls_per_session = 32;
    let (lab, agent) = ready(wish).await;
    // The end of the session and five failed handshakes trip the circuit; two probes fail.
    kill(&lab, 7).await;
    let calls = (0..20).map(|n| {
        let call = agent.tool("write", &json!({"n": n}));
        agent.link.call(call)
    });
    for outcome in futures::future::join_all(calls).await {
        outcome.expect("held until the backend was back");
    }
    assert!(lab.seen.lines().iter().any(|line| line.contains("Open")), "the circuit did trip");
    assert_eq!(calls_seen(&lab), 20, "and nothing ran twice");
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_is_told_after_the_hold_and_at_once_from_then_on() {
    let (lab, agent) = ready(small()).await;
    let others = [lab.agent(2).await, lab.agent(3).await];
    kill(&lab, 100_000).await;
    let start = now();
    let none = json!({});
    let (one, two) = tokio::join!(agent.run("echo", &none), others[0].run("echo", &none));
    for error in [one.expect_err("down"), two.expect_err("down")] {
        assert_eq!((error.kind.code(), error.executed, error.is_retryable()), (-31904, Executed::No, true));
        assert!(error.retry_after.is_some_and(|after| !after.is_zero()));
        assert!(error.message.contains("connection refused"), "{}", error.message);
    }
    let held = now() - start;
    assert!(held >= Duration::from_secs(9) && held < Duration::from_secs(13), "{held:?}");
    let start = now();
    let error = others[1].run("echo", &none).await.expect_err("down");
    assert_eq!((error.kind.code(), now() - start), (-31904, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn without_hold_an_open_circuit_is_told_at_once() {
    let breaker = Settings { hold: Duration::ZERO, ..Settings::default() };
    let (lab, agent) = ready(Wish { breaker, ..small() }).await;
    kill(&lab, 100_000).await;
    lab.until("the trip", |lab| lab.seen.lines().iter().any(|l| l.contains("to: Open"))).await;
    let start = now();
    let error = agent.run("echo", &json!({})).await.expect_err("down");
    assert_eq!((error.kind.code(), now() - start), (-31904, Duration::ZERO));
}

fn state(lab: &Lab) -> &'static str {
    lab.registered.breaker.snapshot(now()).state.as_str()
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_accepts_and_never_answers_trips_the_circuit() {
    let memory = Memory::new(|_| std::future::pending());
    let limits = Limits { min_idle: 1, ..Limits::default() };
    let lab = Lab::start(memory, Wish { limits, ..Wish::default() });
    let took = lab.until("the trip", |lab| state(lab) == "open").await;
    assert!(took < Duration::from_secs(80), "five handshakes of 10 s: {took:?}");
    let error = lab.try_agent(1, None, json!({})).await.err().expect("never reached");
    assert_eq!(error.kind.code(), -31901);
    assert!(error.message.contains("handshake"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn a_backend_comes_back_without_any_traffic() {
    for min_idle in [0, 1] {
        let limits = Limits { min_idle, ..Limits::default() };
        let lab = Lab::scripted(Wish { limits, ..Wish::default() });
        let agent = lab.agent(1).await;
        lab.memory.fail_connects(12, &connect_refused());
        lab.memory.last().fail(broken());
        // Somebody calls until the circuit opens, and never again.
        let attempt = tokio::time::timeout(Duration::from_secs(4), agent.run("echo", &json!({}))).await;
        assert!(attempt.is_err());
        lab.until("the trip", |lab| state(lab) != "closed").await;
        let took = lab.until("the recovery", |lab| state(lab) == "closed").await;
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(lab.seen.lines().iter().any(|line| line.contains("Opened") && line.contains("Probe")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_backend_comes_back_without_traffic_and_keeps_no_session_of_nobody() {
    let wish = Wish { mode: mcpool_upstream::ModeChoice::Pinned, ..Wish::default() };
    let lab = Lab::scripted(wish);
    lab.memory.fail_connects(20, &connect_refused());
    let attempt = tokio::time::timeout(Duration::from_secs(2), lab.try_agent(1, None, json!({}))).await;
    assert!(attempt.is_err() && state(&lab) != "closed", "its agent left in the middle of the outage");
    lab.until("the recovery", |lab| state(lab) == "closed" && lab.memory.sessions().len() == 1).await;
    lab.until("the probe's session is closed", |lab| lab.held().places == 0).await;
}

#[tokio::test(start_paused = true)]
async fn pings_lists_and_levels_of_a_shared_agent_are_answered_without_the_backend() {
    let (lab, agent) = ready(small()).await;
    let list = || agent.link.call(agent.request("tools/list", &json!({})));
    list().await.expect("a list");
    let before = lab.memory.last().sent().len();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let cached = list().await.expect("the same list");
    assert!(cached.message.bytes().windows(4).any(|w| w == b"echo"));
    agent.link.call(agent.request("logging/setLevel", &json!({"level": "debug"}))).await.expect("taken");
    let error = agent.link.call(agent.request("vendor/odd", &json!({}))).await.expect_err("no");
    assert_eq!(error.kind.code(), -32601);
    assert_eq!(lab.memory.last().sent().len(), before);
    lab.memory.last().say(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    lab.until("the agent is told", |_| !agent.inbox.taken().is_empty()).await;
    list().await.expect("a fresh list");
    assert_eq!(lab.memory.last().sent().len(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_asked_for_before_it_changed_is_not_kept() {
    let memory = Memory::new(|turn| async move {
        if turn.method() == Some(mcpool_wire::Method::ToolsList) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        turn.reply().into_iter().collect()
    });
    let lab = Lab::start(memory, small());
    let agent = lab.agent(1).await;
    let list = || agent.link.call(agent.request("tools/list", &json!({})));
    let change = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        lab.memory.last().say(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    };
    let (answer, ()) = tokio::join!(list(), change);
    answer.expect("a list");
    let before = lab.memory.last().sent().len();
    list().await.expect("a list");
    assert_eq!(lab.memory.last().sent().len(), before + 1, "asked again");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_die_one_after_another_are_one_outage() {
    // Each session that is there breaks under the call it gets; the next one to be opened is well.
    let dying = Memory::new(|turn| async move {
        if turn.method() == Some(mcpool_wire::Method::ToolsCall) && turn.session.index() < 5 {
            turn.session.fail(broken());
            return Vec::new();
        }
        turn.reply().into_iter().collect()
    });
    let limits =
        mcpool_upstream::Limits { shared_sessions: 5, min_idle: 5, ..mcpool_upstream::Limits::default() };
    let lab = Lab::start(dying, Wish { limits, ..Wish::default() });
    let agent = lab.agent(1).await;
    lab.until("all are warm", |lab| lab.standings() == ["ready"; 5]).await;
    // The call meets one dying session after another before anybody can be replaced.
    lab.memory.fail_connects(2, &connect_refused());
    agent.run("echo", &json!({})).await.expect("losses within a moment are one outage");
    // More than `retry.attempts` would allow if each counted.
    assert!(lab.seen.count("retried_maybe_sent") > 2, "{:?}", lab.seen.lines());
}
